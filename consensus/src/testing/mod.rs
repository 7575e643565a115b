//! A deterministic cluster for tests.
