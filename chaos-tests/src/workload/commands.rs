//! Calls as Redis commands, and replies back.

use crate::check::history::{Call, Reply, Step};
use holdfast_proto::resp::reply::Value;
use std::fmt::Display;

/// A command's words.
pub(super) type Words = Vec<String>;

fn words(parts: &[&dyn Display]) -> Words {
    parts.iter().map(|part| part.to_string()).collect()
}

/// The list `list` of a group; all of a group are in one slot.
pub(super) fn list_of_group(group: &str, list: u32) -> String {
    format!("{{{group}}}:{list}")
}

/// Sets a value if the present one is given (or missing, if given as an empty string).
pub(super) const CAS_SCRIPT: &str = "local v = redis.call('GET', KEYS[1]) \
    if (v or '') == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end return 0";

/// Arguments are pairs of a list's number and what to append, or nothing to read it.
const TRANSACTION_SCRIPT: &str = "local out = {} for i = 1, #ARGV, 2 do \
    local key = KEYS[tonumber(ARGV[i]) + 1] \
    if ARGV[i + 1] == '' then out[#out + 1] = redis.call('LRANGE', key, 0, -1) \
    else redis.call('RPUSH', key, ARGV[i + 1]) out[#out + 1] = {} end end return out";

/// The command of a call that is one command.
pub(super) fn command(key: &str, call: &Call) -> Words {
    match call {
        Call::Get => words(&[&"GET", &key]),
        Call::Set { value } => words(&[&"SET", &key, value]),
        Call::Cas { from, to } => {
            let from = from.map(|value| value.to_string()).unwrap_or_default();
            words(&[&"EVAL", &CAS_SCRIPT, &1, &key, &from, to])
        }
        Call::Add { by: 1 } => words(&[&"INCR", &key]),
        Call::Add { by } => words(&[&"INCRBY", &key, by]),
        Call::Append { value } | Call::Push { value } => words(&[&"RPUSH", &key, value]),
        Call::ReadList => words(&[&"LRANGE", &key, &0, &-1]),
        Call::AddMember { value } => words(&[&"SADD", &key, value]),
        Call::RemoveMember { value } => words(&[&"SREM", &key, value]),
        Call::HasMember { value } => words(&[&"SISMEMBER", &key, value]),
        Call::Members => words(&[&"SMEMBERS", &key]),
        Call::SetField { field, value } => words(&[&"HSET", &key, field, value]),
        Call::DeleteField { field } => words(&[&"HDEL", &key, field]),
        Call::GetField { field } => words(&[&"HGET", &key, field]),
        Call::Fields => words(&[&"HGETALL", &key]),
        Call::SetExpiring { value, ttl_ms } => words(&[&"SET", &key, value, &"PX", ttl_ms]),
        Call::Lock { value, ttl_ms } => words(&[&"SET", &key, value, &"NX", &"PX", ttl_ms]),
        Call::Pop => words(&[&"LPOP", &key]),
        Call::Transaction { steps } => {
            let lists = steps.iter().map(|step| step.key).max().map_or(0, |last| last + 1);
            let mut script = words(&[&"EVAL", &TRANSACTION_SCRIPT, &lists]);
            script.extend((0..lists).map(|list| list_of_group(key, list)));
            for step in steps {
                let append = step.append.map(|value| value.to_string()).unwrap_or_default();
                script.extend([step.key.to_string(), append]);
            }
            script
        }
    }
}

/// A transaction as MULTI, its steps, EXEC.
pub(super) fn multi(group: &str, steps: &[Step]) -> Vec<Words> {
    let mut commands = vec![words(&[&"MULTI"])];
    for step in steps {
        let list = list_of_group(group, step.key);
        commands.push(match step.append {
            Some(value) => words(&[&"RPUSH", &list, &value]),
            None => words(&[&"LRANGE", &list, &0, &-1]),
        });
    }
    commands.push(words(&[&"EXEC"]));
    commands
}

/// What an answer means; `None` if the call cannot have such an answer.
pub(super) fn reply(call: &Call, value: &Value) -> Option<Reply> {
    match call {
        Call::Get | Call::GetField { .. } => optional(value).map(Reply::Value),
        Call::Set { .. } | Call::SetExpiring { .. } => value.is_ok().then_some(Reply::Done),
        Call::Cas { .. } | Call::HasMember { .. } => match value {
            Value::Integer(0) => Some(Reply::Did(false)),
            Value::Integer(1) => Some(Reply::Did(true)),
            _ => None,
        },
        Call::Lock { .. } if value.is_null() => Some(Reply::Did(false)),
        Call::Lock { .. } => value.is_ok().then_some(Reply::Did(true)),
        Call::Add { .. }
        | Call::Append { .. }
        | Call::AddMember { .. }
        | Call::RemoveMember { .. }
        | Call::SetField { .. }
        | Call::DeleteField { .. } => match value {
            Value::Integer(number) => Some(Reply::Number(*number)),
            _ => None,
        },
        Call::Push { .. } => matches!(value, Value::Integer(_)).then_some(Reply::Done),
        Call::ReadList | Call::Members => integers(value).map(Reply::List),
        Call::Fields => {
            let flat = integers(value)?;
            let pairs = flat.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            flat.len().is_multiple_of(2).then_some(Reply::Pairs(pairs))
        }
        // BLPOP answers the key and the element, LPOP the element.
        Call::Pop => match value.as_array() {
            Some([_, element]) => Some(Reply::Value(Some(element.as_integer()?))),
            Some(_) => None,
            None => optional(value).map(Reply::Value),
        },
        Call::Transaction { steps } => {
            let results = value.as_array()?;
            if results.len() != steps.len() {
                return None;
            }
            let list = |(step, result): (&Step, &Value)| match step.append {
                Some(_) if result.is_error() => None,
                Some(_) => Some(None),
                None => integers(result).map(Some),
            };
            steps.iter().zip(results).map(list).collect::<Option<_>>().map(Reply::Lists)
        }
    }
}

/// An integer or null.
fn optional(value: &Value) -> Option<Option<i64>> {
    if value.is_null() { Some(None) } else { Some(Some(value.as_integer()?)) }
}

fn integers(value: &Value) -> Option<Vec<i64>> {
    match value {
        Value::Map(pairs) => {
            let flat = pairs.iter().flat_map(|(key, value)| [key, value]);
            flat.map(Value::as_integer).collect()
        }
        _ => value.as_array()?.iter().map(Value::as_integer).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn bulk(text: &'static str) -> Value {
        Value::Bulk(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn answers_of_another_kind_are_refused() {
        assert_eq!(reply(&Call::Get, &bulk("5")), Some(Reply::Value(Some(5))));
        assert_eq!(reply(&Call::Get, &bulk("five")), None);
        assert_eq!(reply(&Call::Get, &Value::Array(vec![])), None);
        assert_eq!(reply(&Call::Add { by: 1 }, &bulk("5")), None);
        assert_eq!(reply(&Call::Fields, &Value::Array(vec![bulk("1")])), None);
        let blpop = Value::Array(vec![bulk("q"), bulk("7")]);
        assert_eq!(reply(&Call::Pop, &blpop), Some(Reply::Value(Some(7))));
        assert_eq!(reply(&Call::Pop, &Value::NullArray), Some(Reply::Value(None)));
    }

    #[test]
    fn transactions() {
        let steps = vec![Step { key: 1, append: Some(7) }, Step { key: 0, append: None }];
        let commands = multi("g", &steps);
        assert_eq!(commands[1], ["RPUSH", "{g}:1", "7"]);
        assert_eq!(commands[2], ["LRANGE", "{g}:0", "0", "-1"]);
        let call = Call::Transaction { steps };
        let script = command("g", &call);
        assert_eq!(script[2..], ["2", "{g}:0", "{g}:1", "1", "7", "0", ""]);
        let answer = Value::Array(vec![Value::Integer(1), Value::Array(vec![bulk("3")])]);
        assert_eq!(reply(&call, &answer), Some(Reply::Lists(vec![None, Some(vec![3])])));
        assert_eq!(reply(&call, &Value::Array(vec![Value::Integer(1)])), None);
    }
}
