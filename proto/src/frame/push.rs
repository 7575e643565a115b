//! Frames of what clients are told without asking: subscriptions, messages, invalidations.
//!
//! A worker *registers* on each of its links what its clients subscribe to, with how many of them:
//! a node keeps that for as long as the link lives, whether it is a primary or not, so that a new
//! primary knows every subscriber at once. A message travels as [`Message`]: from the publishing
//! worker to the primary of the channel's slot as the body of a read
//! ([`ReadOp::Publish`](super::ReadOp::Publish)), and from there, in the same bytes, once to every
//! link with a receiver.

use super::FrameError;
use crate::ids::ShardId;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Topic {
    /// SUBSCRIBE
    Channel = 0,
    /// PSUBSCRIBE
    Pattern = 1,
    /// SSUBSCRIBE
    ShardChannel = 2,
    /// CLIENT TRACKING ON BCAST PREFIX: every change of a key with this prefix is told.
    Prefix = 3,
}

impl Topic {
    /// Every kind, for loops.
    pub const ALL: [Self; 4] = [Self::Channel, Self::Pattern, Self::ShardChannel, Self::Prefix];

    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Channel,
            1 => Self::Pattern,
            2 => Self::ShardChannel,
            3 => Self::Prefix,
            _ => return None,
        })
    }
}

/// How many clients of the worker are subscribed to a name now; 0 ends the registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registration<'a> {
    pub topic: Topic,
    pub name: &'a [u8],
    pub clients: u32,
}

impl<'a> Registration<'a> {
    /// Appends the registration to the entries of a frame.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.topic as u8);
        out.put_u32_le(self.clients);
        out.put_u32_le(self.name.len() as u32);
        out.put_slice(self.name);
    }

    /// Takes one registration off the front of a frame's entries.
    pub fn decode(entries: &mut &'a [u8]) -> Result<Self, FrameError> {
        let Some((mut fields, rest)) = entries.split_at_checked(9) else {
            return Err(FrameError::Short);
        };
        let topic = fields.get_u8();
        let topic = Topic::from_u8(topic).ok_or(FrameError::UnknownTopic(topic))?;
        let clients = fields.get_u32_le();
        let len = fields.get_u32_le() as usize;
        let Some((name, rest)) = rest.split_at_checked(len) else { return Err(FrameError::Short) };
        *entries = rest;
        Ok(Self { topic, name, clients })
    }
}

/// Where a message comes from. Receivers deliver each number of a source once, however often a
/// failover had it sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// PUBLISH: number `number` of a worker (the id of its first session). The numbers below
    /// `oldest` have their answer and are not sent again.
    Worker { worker: u64, number: u64, oldest: u64 },
    /// A log entry of a shard (transactions, scripts, keyspace events): its `ordinal`th message.
    /// The pairs grow.
    Log { shard: ShardId, index: u64, ordinal: u64 },
    /// Told once, may be lost or repeated (`keymiss` events).
    Nowhere,
}

/// A published message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    pub source: Source,
    /// SPUBLISH.
    pub sharded: bool,
    /// It had been sent before.
    pub resent: bool,
    pub channel: &'a [u8],
    pub payload: &'a [u8],
}

/// Set in the source's id for [`Source::Log`]; worker ids count from 1 and stay below it.
const SOURCE_LOG: u64 = 1 << 63;
const FLAG_SHARDED: u8 = 1 << 0;
const FLAG_RESENT: u8 = 1 << 1;
/// Source, number, oldest (or ordinal), flags, length of the channel's name.
const MESSAGE_HEADER_LEN: usize = 8 + 8 + 8 + 1 + 4;
const FLAGS_AT: usize = 24;

impl<'a> Message<'a> {
    /// Bytes of the encoded message.
    pub fn encoded_len(&self) -> usize {
        MESSAGE_HEADER_LEN + self.channel.len() + self.payload.len()
    }

    pub fn encode(&self, out: &mut impl BufMut) {
        let (id, number, extra) = match self.source {
            Source::Worker { worker, number, oldest } => (worker, number, oldest),
            Source::Log { shard, index, ordinal } => {
                (SOURCE_LOG | u64::from(shard.0), index, ordinal)
            }
            Source::Nowhere => (0, 0, 0),
        };
        out.put_u64_le(id);
        out.put_u64_le(number);
        out.put_u64_le(extra);
        let sharded = if self.sharded { FLAG_SHARDED } else { 0 };
        out.put_u8(sharded | if self.resent { FLAG_RESENT } else { 0 });
        out.put_u32_le(self.channel.len() as u32);
        out.put_slice(self.channel);
        out.put_slice(self.payload);
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let Some((mut fields, rest)) = bytes.split_at_checked(MESSAGE_HEADER_LEN) else {
            return Err(FrameError::Short);
        };
        let (id, number, extra) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le());
        let flags = fields.get_u8();
        let channel_len = fields.get_u32_le() as usize;
        let Some((channel, payload)) = rest.split_at_checked(channel_len) else {
            return Err(FrameError::Short);
        };
        let source = match id {
            0 => Source::Nowhere,
            id if id & SOURCE_LOG != 0 => {
                Source::Log { shard: ShardId(id as u32), index: number, ordinal: extra }
            }
            worker => Source::Worker { worker, number, oldest: extra },
        };
        let sharded = flags & FLAG_SHARDED != 0;
        Ok(Self { source, sharded, resent: flags & FLAG_RESENT != 0, channel, payload })
    }

    /// Marks an encoded message as sent before.
    pub fn mark_resent(encoded: &mut [u8]) {
        if let Some(flags) = encoded.get_mut(FLAGS_AT) {
            *flags |= FLAG_RESENT;
        }
    }
}

/// Appends a message's frame; `encoded` is an encoded [`Message`].
pub fn push_message(out: &mut Vec<u8>, encoded: &[u8]) -> usize {
    out.put_u32_le((1 + encoded.len()) as u32);
    out.put_u8(super::KIND_MESSAGE);
    let start = out.len();
    out.put_slice(encoded);
    start
}

/// Begins an invalidation's frame; the caller appends each key behind its length (`u32`), then
/// calls [`finish_invalidate`] with what is returned. `cause`: the tag of the request that changed
/// the keys, 0 for none.
pub fn begin_invalidate(out: &mut Vec<u8>, cause: u64) -> usize {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(super::KIND_INVALIDATE);
    out.put_u64_le(cause);
    start
}

/// Ends an invalidation's frame.
pub fn finish_invalidate(out: &mut [u8], start: usize) {
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// The keys of an invalidation: none for "every key".
pub fn invalidated_keys(mut body: Bytes) -> Result<Vec<Bytes>, FrameError> {
    let mut keys = Vec::new();
    while body.has_remaining() {
        if body.len() < 4 {
            return Err(FrameError::Short);
        }
        let len = body.get_u32_le() as usize;
        if body.len() < len {
            return Err(FrameError::Short);
        }
        keys.push(body.split_to(len));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_round_trip() {
        let all = [
            Registration { topic: Topic::Channel, name: b"news", clients: 3 },
            Registration { topic: Topic::Pattern, name: b"", clients: 0 },
            Registration { topic: Topic::ShardChannel, name: b"x\r\n", clients: u32::MAX },
        ];
        let mut out = BytesMut::new();
        for registration in &all {
            registration.encode(&mut out);
        }
        for cut in 0..out.len() {
            let mut rest = &out[..cut];
            let mut got = 0;
            let error = loop {
                match Registration::decode(&mut rest) {
                    Ok(registration) => {
                        assert_eq!(registration, all[got]);
                        got += 1;
                    }
                    Err(error) => break error,
                }
            };
            assert_eq!(error, FrameError::Short);
        }
        let mut rest = &out[..];
        let got = [(); 3].map(|()| Registration::decode(&mut rest).unwrap());
        assert_eq!(got, all);
        assert!(rest.is_empty());
        let mut wrong = &[9, 0, 0, 0, 0, 0, 0, 0, 0][..];
        assert_eq!(Registration::decode(&mut wrong), Err(FrameError::UnknownTopic(9)));
    }

    #[test]
    fn messages_round_trip() {
        for source in [
            Source::Worker { worker: 7, number: 1, oldest: 1 },
            Source::Log { shard: ShardId(3), index: 900, ordinal: 2 },
            Source::Nowhere,
        ] {
            let message =
                Message { source, sharded: true, resent: false, channel: b"c", payload: b"hello" };
            let mut out = BytesMut::new();
            message.encode(&mut out);
            assert_eq!(out.len(), message.encoded_len());
            assert_eq!(Message::decode(&out), Ok(message));
            Message::mark_resent(&mut out);
            assert_eq!(Message::decode(&out), Ok(Message { resent: true, ..message }));
            for cut in 0..MESSAGE_HEADER_LEN + 1 {
                assert_eq!(Message::decode(&out[..cut]), Err(FrameError::Short));
            }
        }
    }
}
