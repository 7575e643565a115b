//! Libraries of functions: replicated state. A library is its code; what it registers follows.

use super::cache::Sha;
use super::shebang::Flags;
use crate::rdb::decode::{Decoder, Slice};
use crate::rdb::{DUMP_FOOTER_LEN, VERSION, VERSION_READ_MAX, crc64, encode, opcode};
use holdfast_proto::sha1;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One function as FUNCTION LIST shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: Vec<u8>,
    pub(crate) flags: Flags,
    pub(crate) description: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Library {
    /// The whole text, with its first line.
    pub(crate) code: Arc<[u8]>,
    /// Names the compiled code.
    pub(crate) sha: Sha,
    /// By name.
    pub(crate) functions: Vec<Function>,
}

/// All libraries of the shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Libraries {
    libraries: BTreeMap<Vec<u8>, Library>,
    /// Function names in lower case (FCALL finds them in any) to their libraries.
    owners: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Libraries {
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Library> {
        self.libraries.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Library)> {
        self.libraries.iter().map(|(name, library)| (name.as_slice(), library))
    }

    pub(crate) fn len(&self) -> usize {
        self.libraries.len()
    }

    pub(crate) fn function_count(&self) -> usize {
        self.owners.len()
    }

    /// A function and the library that it is in.
    pub(crate) fn function(&self, name: &[u8]) -> Option<(&Library, &Function)> {
        let library = self.libraries.get(self.owners.get(&name.to_ascii_lowercase())?)?;
        let named = |function: &&Function| function.name.eq_ignore_ascii_case(name);
        let function = library.functions.iter().find(named)?;
        Some((library, function))
    }

    /// Adds a library; `replace` takes the place of one with the same name. Nothing changes on
    /// an error, which is the text of the reply.
    pub(crate) fn insert(
        &mut self,
        name: &[u8],
        code: &[u8],
        mut functions: Vec<Function>,
        replace: bool,
    ) -> Result<(), String> {
        if !replace && self.libraries.contains_key(name) {
            return Err(format!("Library '{}' already exists", text(name)));
        }
        for function in &functions {
            let owner = self.owners.get(&function.name.to_ascii_lowercase());
            if owner.is_some_and(|owner| owner != name) {
                return Err(format!("Function {} already exists", text(&function.name)));
            }
        }
        self.remove(name);
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        for function in &functions {
            self.owners.insert(function.name.to_ascii_lowercase(), name.to_vec());
        }
        let library = Library { code: code.into(), sha: sha1::digest(code), functions };
        self.libraries.insert(name.to_vec(), library);
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> bool {
        let Some(library) = self.libraries.remove(name) else { return false };
        for function in &library.functions {
            self.owners.remove(&function.name.to_ascii_lowercase());
        }
        true
    }

    /// The payload of FUNCTION DUMP.
    pub(crate) fn dump(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let crc = crc64::update(0, &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// As they stand in an RDB file.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for library in self.libraries.values() {
            out.push(opcode::FUNCTION_2);
            encode::plain_string(&library.code, out);
        }
    }

    /// Approximate bytes.
    pub(crate) fn memory(&self) -> usize {
        let libraries = self.libraries.values();
        libraries.map(|library| library.code.len() + library.functions.len() * 256 + 256).sum()
    }
}

/// The codes of the libraries in a payload of FUNCTION DUMP, or the text of the error.
pub(crate) fn parse_dump(payload: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    const CHECKSUM: &str = "DUMP payload version or checksum are wrong";
    let body_len = payload.len().checked_sub(DUMP_FOOTER_LEN).ok_or(CHECKSUM)?;
    let (checked, crc) = payload.split_last_chunk::<8>().ok_or(CHECKSUM)?;
    let (body, version) = checked.split_at(body_len);
    let version = u16::from_le_bytes([version[0], version[1]]);
    if version > VERSION_READ_MAX || crc64::update(0, checked) != u64::from_le_bytes(*crc) {
        return Err(CHECKSUM.to_owned());
    }
    let mut input = Decoder::new(Slice(body));
    let mut codes = Vec::new();
    while !input.source.0.is_empty() {
        match input.byte() {
            Ok(opcode::FUNCTION_2) => {}
            Ok(opcode::FUNCTION_PRE_GA) => {
                return Err("Pre-GA function format not supported".to_owned());
            }
            _ => return Err("given type is not a function".to_owned()),
        }
        match input.string() {
            Ok(code) => codes.push(code.to_vec()),
            Err(_) => return Err("Failed loading library data".to_owned()),
        }
    }
    Ok(codes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
