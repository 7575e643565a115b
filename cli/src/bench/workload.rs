//! What the load consists of: which commands, which keys, which values.

use super::args::BenchArgs;
use anyhow::{Context, bail};

/// The requests to draw from. Shared by all connections; each has its own [`Chooser`].
pub(crate) struct Workload {
    /// Templates with the sum of weights up to and including each.
    templates: Vec<(u64, Template)>,
    weight_total: u64,
    keys: u64,
    key_len: usize,
    distribution: Distribution,
    value: Vec<u8>,
}

/// One request: its bytes with holes for keys, and how many replies it earns.
struct Template {
    parts: Vec<Part>,
    replies: u32,
}

enum Part {
    Bytes(Vec<u8>),
    Key,
}

enum Distribution {
    Uniform,
    Sequential,
    /// Gray et al., "Quickly generating billion-record synthetic databases" (the YCSB generator).
    Zipf {
        theta: f64,
        zeta_n: f64,
        alpha: f64,
        eta: f64,
    },
}

/// A connection's own state of choices.
pub(crate) struct Chooser {
    random: u64,
    next: u64,
}

impl Chooser {
    pub(crate) fn new(seed: u64, connection: u64) -> Self {
        let mut chooser = Self {
            random: seed ^ connection.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03,
            next: connection.wrapping_mul(7919),
        };
        chooser.draw();
        chooser
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Workload {
    pub(crate) fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        let value = vec![b'x'; args.value_len];
        let mut templates = Vec::new();
        let mut weight_total = 0;
        let mut add = |weight: u64, commands: &[Vec<String>]| {
            weight_total += weight;
            let template = Template::new(commands, &value).with_key_len(args.key_len.max(4));
            templates.push((weight_total, template));
        };
        if let Some(command) = &args.command {
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            if words.is_empty() {
                bail!("--command is empty");
            }
            add(1, &[words]);
        } else {
            for part in args.mix.split(',') {
                let (name, weight) = part.split_once(':').unwrap_or((part, "1"));
                let weight = weight.parse().with_context(|| format!("bad weight in '{part}'"))?;
                add(weight, &named(name)?);
            }
        }
        if weight_total == 0 {
            bail!("--mix has no weight above 0");
        }
        if args.keys == 0 {
            bail!("--keys must be at least 1");
        }
        let distribution = Distribution::named(&args.distribution, args.keys)?;
        Ok(Self {
            templates,
            weight_total,
            keys: args.keys,
            key_len: args.key_len.max(4),
            distribution,
            value,
        })
    }

    /// Appends one request; returns how many replies it earns.
    pub(crate) fn append(&self, chooser: &mut Chooser, out: &mut Vec<u8>) -> u32 {
        let template = if self.templates.len() == 1 {
            &self.templates[0].1
        } else {
            let at = chooser.draw() % self.weight_total;
            let found = self.templates.iter().find(|(upto, _)| at < *upto);
            &found.expect("the last template's sum is the total").1
        };
        let mut key = None;
        for part in &template.parts {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(bytes),
                Part::Key => {
                    let number =
                        *key.get_or_insert_with(|| self.distribution.choose(chooser, self.keys));
                    append_key(number, self.key_len, out);
                    // A command with several keys names different ones.
                    key = Some((number + 1) % self.keys);
                }
            }
        }
        template.replies
    }

    pub(crate) fn value_len(&self) -> usize {
        self.value.len()
    }
}

fn append_key(mut number: u64, len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"key:");
    let digits_from = out.len();
    out.resize(digits_from + len - "key:".len(), b'0');
    let mut at = out.len();
    while number > 0 && at > digits_from {
        at -= 1;
        out[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

impl Template {
    fn new(commands: &[Vec<String>], value: &[u8]) -> Self {
        let mut parts = Vec::new();
        let mut bytes = Vec::new();
        for words in commands {
            bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
            for word in words {
                match word.as_str() {
                    "__key__" => {
                        bytes.extend_from_slice(b"$\r\n");
                        parts.push(Part::Bytes(std::mem::take(&mut bytes)));
                        parts.push(Part::Key);
                    }
                    "__value__" => append_bulk(value, &mut bytes),
                    word => append_bulk(word.as_bytes(), &mut bytes),
                }
                if word == "__key__" {
                    bytes.extend_from_slice(b"\r\n");
                }
            }
        }
        parts.push(Part::Bytes(bytes));
        Self { parts, replies: commands.len() as u32 }
    }

    /// Writes the length of keys into the holes' headers, known only now.
    fn with_key_len(mut self, key_len: usize) -> Self {
        let count = self.parts.len();
        for at in 0..count {
            let before_key = matches!(self.parts.get(at + 1), Some(Part::Key));
            if let (true, Part::Bytes(bytes)) = (before_key, &mut self.parts[at]) {
                bytes.truncate(bytes.len() - 2);
                bytes.extend_from_slice(format!("{key_len}\r\n").as_bytes());
            }
        }
        self
    }
}

fn append_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn named(name: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let one = |line: &str| vec![line.split(' ').map(str::to_owned).collect::<Vec<_>>()];
    Ok(match name {
        "get" => one("GET __key__"),
        "set" => one("SET __key__ __value__"),
        "incr" => one("INCR __key__"),
        "append" => one("APPEND __key__ __value__"),
        "del" => one("DEL __key__"),
        "lpush" => one("LPUSH __key__ __value__"),
        "rpop" => one("RPOP __key__"),
        "hset" => one("HSET __key__ field __value__"),
        "hget" => one("HGET __key__ field"),
        "sadd" => one("SADD __key__ __value__"),
        "zadd" => one("ZADD __key__ 1 __value__"),
        "mset" => one("MSET __key__ __value__ __key__ __value__ __key__ __value__"),
        "mget" => one("MGET __key__ __key__ __key__"),
        "ping" => one("PING"),
        "set-wait" => vec![one("SET __key__ __value__").remove(0), one("WAIT 1 0").remove(0)],
        other => bail!("unknown command '{other}' in --mix"),
    })
}

impl Distribution {
    fn named(name: &str, keys: u64) -> anyhow::Result<Self> {
        Ok(match name {
            "uniform" => Self::Uniform,
            "sequential" => Self::Sequential,
            "zipf" => Self::zipf(keys, 0.99),
            other => bail!("unknown --distribution '{other}'"),
        })
    }

    fn zipf(keys: u64, theta: f64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| 1.0 / (i as f64).powf(theta)).sum::<f64>();
        let zeta_n = zeta(keys);
        let eta =
            (1.0 - (2.0 / keys as f64).powf(1.0 - theta)) / (1.0 - zeta(2.min(keys)) / zeta_n);
        Self::Zipf { theta, zeta_n, alpha: 1.0 / (1.0 - theta), eta }
    }

    fn choose(&self, chooser: &mut Chooser, keys: u64) -> u64 {
        match *self {
            Self::Uniform => chooser.draw() % keys,
            Self::Sequential => {
                chooser.next = chooser.next.wrapping_add(1);
                chooser.next % keys
            }
            Self::Zipf { theta, zeta_n, alpha, eta } => {
                let u = (chooser.draw() >> 11) as f64 / (1u64 << 53) as f64;
                let uz = u * zeta_n;
                if uz < 1.0 {
                    return 0;
                }
                if uz < 1.0 + 0.5f64.powf(theta) {
                    return 1 % keys;
                }
                ((keys as f64 * (eta * u - eta + 1.0).powf(alpha)) as u64).min(keys - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> BenchArgs {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            bench: BenchArgs,
        }
        let all = ["bench"].iter().chain(words).copied();
        <Cli as clap::Parser>::try_parse_from(all).unwrap().bench
    }

    #[test]
    fn requests_are_resp() {
        let workload = Workload::new(&args(&["-d", "3", "--key-len", "8", "-r", "1"])).unwrap();
        let mut out = Vec::new();
        assert_eq!(workload.append(&mut Chooser::new(1, 0), &mut out), 1);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$8\r\nkey:0000\r\n$3\r\nxxx\r\n");
    }

    #[test]
    fn several_commands_earn_several_replies() {
        let workload = Workload::new(&args(&["--mix", "set-wait", "-d", "1", "-r", "1"])).unwrap();
        let mut out = Vec::new();
        assert_eq!(workload.append(&mut Chooser::new(1, 0), &mut out), 2);
        assert!(out.ends_with(b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n"));
    }

    #[test]
    fn zipf_prefers_small_keys() {
        let workload = Workload::new(&args(&["--distribution", "zipf", "-r", "1000"])).unwrap();
        let mut chooser = Chooser::new(3, 0);
        let mut low = 0;
        for _ in 0..10_000 {
            let key = workload.distribution.choose(&mut chooser, 1000);
            assert!(key < 1000);
            low += u32::from(key < 10);
        }
        assert!(low > 3000, "{low} of 10000 on the ten hottest keys");
    }

    #[test]
    fn bad_mixes_are_refused() {
        for mix in ["nothing", "set:x", "set:0"] {
            assert!(Workload::new(&args(&["--mix", mix])).is_err(), "{mix}");
        }
    }
}
