//! What a deployment consists of on disk: secrets, certificates and a configuration file for each
//! process. `up` writes one for this machine, `init` one for several machines or containers.

pub(crate) mod certificates;
pub(crate) mod configs;
pub(crate) mod files;
