//! The `holdfast` binary; see the library of the same crate.

#![forbid(unsafe_code)]

fn main() {
    holdfast_cli::main();
}
