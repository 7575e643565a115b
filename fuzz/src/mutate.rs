//! Seeded mutations of inputs: of bytes, and of the arguments of RESP requests.

use bytes::BytesMut;
use holdfast_proto::resp::{Decoded, Limits, decode_request, encode};

/// Inputs stay below this.
const INPUT_LEN_MAX: usize = 16 * 1024;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }
}

/// A changed copy of `input`; `other` is another input to take pieces from.
pub fn mutate(input: &[u8], other: &[u8], resp: bool, rng: &mut Rng) -> Vec<u8> {
    let mut output = input.to_vec();
    let changes = 1 + rng.below(4);
    for _ in 0..changes {
        if resp && rng.below(4) > 0 {
            output = mutate_requests(&output, other, rng);
        } else {
            mutate_bytes(&mut output, other, rng);
        }
    }
    output.truncate(INPUT_LEN_MAX);
    output
}

fn mutate_bytes(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let at = rng.below(bytes.len());
    let longest = if rng.below(4) == 0 { 64 } else { 8 };
    let len = 1 + rng.below(longest);
    let end = (at + len).min(bytes.len());
    match rng.below(10) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
        1 if !bytes.is_empty() => bytes[at] = rng.draw() as u8,
        2 if !bytes.is_empty() => {
            const EDGES: [u8; 10] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0x81, 0xc0, 0xfe, 0xff];
            bytes[at] = EDGES[rng.below(EDGES.len())];
        }
        // A length, in either order of bytes.
        3 => {
            const EDGES: [u64; 8] = [0, 1, 255, 65_535, 1 << 31, u32::MAX as u64, 1 << 63, !0];
            let edge = EDGES[rng.below(EDGES.len())].wrapping_add(rng.below(3) as u64);
            let number = if rng.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
            let width = [1, 2, 4, 8][rng.below(4)].min(bytes.len() - at);
            let digits = if rng.below(2) == 0 { &number[..width] } else { &number[8 - width..] };
            bytes[at..at + width].copy_from_slice(digits);
        }
        4 => drop(bytes.drain(at..end)),
        5 => {
            let fresh: Vec<u8> = (0..len).map(|_| rng.draw() as u8).collect();
            bytes.splice(at..at, fresh);
        }
        6 => {
            let copy = bytes[at..end].to_vec();
            let to = rng.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        7 => {
            let from = rng.below(other.len());
            let piece = other[from..(from + len * 4).min(other.len())].to_vec();
            bytes.splice(at..end, piece);
        }
        8 => bytes.truncate(at),
        _ => {
            let from = rng.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

/// The requests at the front of `bytes`.
fn requests(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut buffer = BytesMut::from(bytes);
    let mut found = Vec::new();
    while let Ok(Decoded::Request(request)) = decode_request(&mut buffer, &Limits::AUTHENTICATED) {
        found.push(request.iter().map(<[u8]>::to_vec).collect());
    }
    found
}

fn mutate_requests(input: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    const WORDS: [&[u8]; 28] = [
        b"",
        b"0",
        b"-1",
        b"1",
        b"2",
        b"-9223372036854775808",
        b"9223372036854775807",
        b"1.5",
        b"-0",
        b"inf",
        b"-inf",
        b"nan",
        b"1e400",
        b"abc",
        b"\0\xff",
        b"*",
        b"(1",
        b"[a",
        b"+",
        b"-",
        b"COUNT",
        b"LIMIT",
        b"NX",
        b"WITHSCORES",
        b"STORE",
        b"#3",
        b"u63",
        b"0x10",
    ];
    let mut all = requests(input);
    let others = requests(other);
    if all.is_empty() {
        all = others.clone();
    }
    let at = rng.below(all.len());
    let piece = others.get(rng.below(others.len())).cloned();
    if let Some(request) = all.get_mut(at) {
        let argument = rng.below(request.len());
        match rng.below(9) {
            0 => request[argument] = WORDS[rng.below(WORDS.len())].to_vec(),
            1 => mutate_bytes(&mut request[argument], b"k", rng),
            2 => drop(request.remove(argument)),
            3 => request.insert(argument, WORDS[rng.below(WORDS.len())].to_vec()),
            4 => {
                let copy = request[argument].clone();
                request.push(copy);
            }
            5 => {
                let to = rng.below(request.len());
                request.swap(argument, to);
            }
            // The same arguments for another command.
            6 => {
                if let Some(name) = piece.as_ref().and_then(|piece| piece.first()) {
                    request[0].clone_from(name);
                }
            }
            7 => {
                let copy = request.clone();
                all.insert(at, copy);
            }
            _ => {
                if let Some(piece) = piece {
                    all.insert(at, piece);
                }
            }
        }
    }
    let mut output = Vec::new();
    for request in all.iter().filter(|request| !request.is_empty()) {
        encode::command(&mut output, request.iter().map(Vec::as_slice));
    }
    output
}
