//! Random commands from templates.
//!
//! A template is words separated by blanks. `{x}` is a random argument of kind x (see
//! [`Generator::argument`]); `[a | b]` is nothing or one of the alternatives; `(a | b)` one of them;
//! `<a>` is one to four times a; `#<a>` the same after its count (`numkeys`). Whatever a template
//! gives is then, now and then, broken: an argument lost, doubled, or replaced by something absurd.

use super::rng::Rng;

/// Every family of commands, by name. Lines that stand twice are tried twice as often.
pub(crate) const FAMILIES: &[(&str, &str)] = &[
    ("strings", include_str!("templates/strings.txt")),
    ("keys", include_str!("templates/keys.txt")),
    ("hashes", include_str!("templates/hashes.txt")),
    ("lists", include_str!("templates/lists.txt")),
    ("sets", include_str!("templates/sets.txt")),
    ("zsets", include_str!("templates/zsets.txt")),
    ("streams", include_str!("templates/streams.txt")),
    ("bitmaps", include_str!("templates/bitmaps.txt")),
    ("hyperloglogs", include_str!("templates/hyperloglogs.txt")),
    ("geo", include_str!("templates/geo.txt")),
];

pub(crate) type Args = Vec<Vec<u8>>;

enum Node {
    Word(String),
    Argument(char),
    Choice { optional: bool, alternatives: Vec<Vec<Node>> },
    Repeat { counted: bool, inner: Vec<Node> },
}

/// One family's templates, parsed.
pub(crate) struct Family {
    templates: Vec<Vec<Node>>,
}

pub(crate) fn families(wanted: &str) -> Vec<Family> {
    let chosen = |name: &str| wanted.is_empty() || wanted.split(',').any(|w| w == name);
    let families = FAMILIES.iter().filter(|(name, _)| chosen(name));
    families.map(|(_, text)| family(text)).collect()
}

impl Family {
    /// The names of the commands.
    pub(crate) fn commands(&self) -> impl Iterator<Item = String> {
        self.templates.iter().filter_map(|template| match template.first() {
            Some(Node::Word(name)) => Some(name.clone()),
            _ => None,
        })
    }
}

/// Templates of one's own, a line each.
pub(crate) fn family(text: &str) -> Family {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Family { templates: lines.map(parse).collect() }
}

fn parse(line: &str) -> Vec<Node> {
    let mut spaced = String::new();
    for c in line.chars() {
        match c {
            '[' | ']' | '(' | ')' | '<' | '>' | '|' => spaced.extend([' ', c, ' ']),
            _ => spaced.push(c),
        }
    }
    let mut tokens = spaced.split_whitespace().peekable();
    let nodes = parse_sequence(&mut tokens);
    assert!(tokens.next().is_none(), "unbalanced template: {line}");
    nodes
}

fn parse_sequence<'a>(
    tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut counted = false;
    while let Some(&token) = tokens.peek() {
        if matches!(token, "]" | ")" | ">" | "|") {
            break;
        }
        tokens.next();
        match token {
            "[" | "(" => {
                let mut alternatives = vec![parse_sequence(tokens)];
                while tokens.next() == Some("|") {
                    alternatives.push(parse_sequence(tokens));
                }
                nodes.push(Node::Choice { optional: token == "[", alternatives });
            }
            "<" => {
                let inner = parse_sequence(tokens);
                assert_eq!(tokens.next(), Some(">"));
                nodes.push(Node::Repeat { counted, inner });
                counted = false;
            }
            "#" => counted = true,
            _ if token.starts_with('{') => {
                nodes.push(Node::Argument(token.chars().nth(1).expect("a kind")));
            }
            word => nodes.push(Node::Word(word.to_owned())),
        }
    }
    nodes
}

/// Times that no clock decides about.
const ABSURD_TIMES: &[&str] = &[
    "0",
    "-1",
    "-1000",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "9223372036854775",
    "9223372036854774",
    "-9223372036854775",
    "99999999999999999999",
    "",
    "abc",
    "1.5",
    "+1000",
    " 1000",
    "01000",
];

/// Makes arguments and commands.
pub(crate) struct Generator<'a> {
    pub(crate) rng: &'a mut Rng,
    /// Comes before every key: a hash tag, where all keys must share a slot.
    pub(crate) key_prefix: &'a str,
    /// Keys are always of the type that the template says.
    pub(crate) faithful: bool,
}

impl Generator<'_> {
    /// A command, now and then broken in one place.
    pub(crate) fn command(&mut self, family: &Family) -> Args {
        let mut args = self.intact(family);
        // What is broken could give a sorted set of equal scores another one.
        let may_damage = !args.iter().any(|arg| {
            arg.strip_prefix(self.key_prefix.as_bytes())
                .is_some_and(|key| key.first() == Some(&b'y'))
        });
        if may_damage && self.rng.one_in(25) {
            self.damage(&mut args);
        }
        args
    }

    /// A command as its template says.
    pub(crate) fn intact(&mut self, family: &Family) -> Args {
        let template = &family.templates[self.rng.below(family.templates.len())];
        let mut args = Args::new();
        self.expand(template, &mut args);
        args
    }

    fn expand(&mut self, nodes: &[Node], args: &mut Args) {
        for node in nodes {
            match node {
                Node::Word(word) => args.push(self.word(word)),
                Node::Argument(kind) => {
                    let argument = self.argument(*kind);
                    args.push(argument);
                }
                Node::Choice { optional, alternatives } => {
                    if !optional || self.rng.one_in(3) {
                        let chosen = self.rng.below(alternatives.len());
                        self.expand(&alternatives[chosen], args);
                    }
                }
                Node::Repeat { counted, inner } => {
                    let times =
                        if !counted && self.rng.one_in(150) { 150 } else { 1 + self.rng.below(4) };
                    if *counted {
                        args.push(times.to_string().into_bytes());
                    }
                    (0..times).for_each(|_| self.expand(inner, args));
                }
            }
        }
    }

    /// Breaks a command in one place.
    fn damage(&mut self, args: &mut Args) {
        let at = self.rng.below(args.len());
        // Not a small number where a time may be meant: the key would vanish at a moment of its own.
        let name = args[0].to_ascii_uppercase();
        let timed = name == b"SET" || name.windows(2).any(|w| w == b"EX") || name == b"RESTORE";
        // Nor a number that is a legal offset of a bit, hundreds of megabytes away.
        let timed = timed || name == b"SETBIT" || name == b"BITFIELD";
        let blocks = name.starts_with(b"B") || name.starts_with(b"XREAD");
        let kind = match (timed, blocks) {
            (true, _) => 'a',
            (_, true) => 'y',
            _ => ['i', 'v'][self.rng.below(2)],
        };
        match self.rng.below(5) {
            0 if args.len() > 1 => drop(args.remove(at.max(1))),
            1 => args.insert(at + 1, self.argument(kind)),
            2 | 3 if at > 0 => args[at] = self.argument(kind),
            _ => args.truncate(at.max(1)),
        }
    }

    fn word(&mut self, word: &str) -> Vec<u8> {
        if self.rng.one_in(4) { word.to_lowercase().into_bytes() } else { word.as_bytes().to_vec() }
    }

    /// A random argument. Keys by type: `s`tring, `h`ash, `l`ist, s`e`t, `z`set, `y` sorted set of equal
    /// scores (BYLEX means nothing otherwise), `k` any but `y`; `v` value,
    /// `f` field or member, `i` integer, `c` count, `d` score, `b` score bound, `x` lex bound,
    /// `t` seconds, `p` milliseconds, `u` Unix seconds, `w` Unix milliseconds (`U`, `W`: maybe past), `m` pattern,
    /// `j` stream, `I` id for XADD, `q` id, `Q` end of an interval, `G` group, `C` consumer, `N` a `>`, `B` block
    /// timeout in milliseconds, `o` block timeout, `n` database, `r` small index, `g` pattern of SORT,
    /// `a` absurd. Bitmaps: `A` offset, `E` bad offset, `F` type of a field, `M` its offset.
    /// `H` HyperLogLog, `P` one of many elements, `J` value of a strange one. Geo: `R` key of points, `Z` key of what was found, `O`
    /// longitude, `L` latitude, `K` radius, `D` unit.
    pub(crate) fn argument(&mut self, kind: char) -> Vec<u8> {
        match kind {
            's' | 'h' | 'l' | 'e' | 'z' | 'y' | 'j' | 'k' => self.key(kind),
            'I' => self.new_id(),
            'q' => self.id(),
            'Q' => self.interval_end(),
            'G' => self.pick(&["g1", "g1", "g1", "g2", "g2", "g\n3", ""]),
            'C' => self.pick(&["c1", "c1", "c2", "c2", "c3", ""]),
            'N' => b">".to_vec(),
            'B' => self.pick(&["1", "2", "3", "-1", "x", "1.5", "9223372036854775808"]),
            'a' => self.pick(ABSURD_TIMES),
            'g' => self.pick(&["nosort", "s*", "h0->f1", "h*->f*", "#", "*", "x"]),
            'v' => self.value(),
            'f' => self.field(),
            'i' => self.integer(),
            'c' => self.count(),
            'r' => (self.rng.below(16) as i64 - 6).to_string().into_bytes(),
            'd' => self.double(),
            'b' => self.score_bound(),
            'x' => self.lex_bound(),
            't' | 'p' | 'u' | 'w' | 'U' | 'W' => self.time(kind),
            'm' => self
                .pick(&["*", "f*", "?1", "[a-z]*", "f[^1]", "*1*", "\\*", "[", "x", "", "z[0-9]"]),
            'o' => self.pick(&["0.001", "0.002", "0.003", "-1", "x", "1e400", "nan", "0x1p-6"]),
            'H' => format!("{}p{}", self.key_prefix, self.rng.below(4)).into_bytes(),
            'R' => format!("{}o{}", self.key_prefix, self.rng.below(3)).into_bytes(),
            'Z' => format!("{}d{}", self.key_prefix, self.rng.below(3)).into_bytes(),
            'J' => self.strange_hyperloglog(),
            'P' => self.rng.below(100_000).to_string().into_bytes(),
            'A' | 'E' | 'F' | 'M' => self.bits(kind),
            'O' | 'L' | 'K' | 'D' => self.geography(kind),
            'n' => self.pick(&["0", "0", "1", "1", "2", "15", "16", "-1", "x", "99999999999"]),
            other => panic!("unknown kind of argument: {other}"),
        }
    }

    fn bits(&mut self, kind: char) -> Vec<u8> {
        const BAD: &[&str] =
            &["-1", "4294967296", "abc", "", "1.5", " 1", "9223372036854775807", "#1", "+1", "01"];
        match kind {
            'E' => self.pick(BAD),
            'A' if self.rng.one_in(12) => self.rng.below(70_000).to_string().into_bytes(),
            'A' => self.rng.below(130).to_string().into_bytes(),
            'M' if self.rng.one_in(25) => {
                self.pick(&["#-1", "#", "#9223372036854775807", "##1", "-1", "x", "4294967296"])
            }
            'M' if self.rng.one_in(3) => format!("#{}", self.rng.below(12)).into_bytes(),
            'M' => self.rng.below(130).to_string().into_bytes(),
            _ if self.rng.one_in(25) => {
                self.pick(&["u64", "i65", "i0", "x8", "i", "i08", "u-1", "", "I8", "u 8", "8"])
            }
            _ if self.rng.one_in(2) => self.pick(&["i8", "u8", "i16", "u4", "i64", "u63", "i1"]),
            _ if self.rng.one_in(2) => format!("i{}", 1 + self.rng.below(64)).into_bytes(),
            _ => format!("u{}", 1 + self.rng.below(63)).into_bytes(),
        }
    }

    /// A header without a cached count, and registers that may make sense.
    fn strange_hyperloglog(&mut self) -> Vec<u8> {
        let mut value = b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80".to_vec();
        match self.rng.below(8) {
            0 => value[4] = 2,
            1 => {
                value[4] = 0;
                let fill = self.rng.next() as u8;
                value.resize(16 + 12288 - self.rng.below(2), fill);
                return value;
            }
            2 => {
                value.truncate(self.rng.below(17));
                return value;
            }
            _ => {}
        }
        let mut left = 16384;
        while left > 0 && !self.rng.one_in(200) {
            let len = match self.rng.below(6) {
                0 => 1 + self.rng.below(left),
                1 => 1 + self.rng.below(left.min(64)),
                _ => 1 + self.rng.below(left.min(4)),
            };
            match len {
                65.. => value.extend([0x40 | ((len - 1) >> 8) as u8, (len - 1) as u8]),
                5.. => value.push((len - 1) as u8),
                _ => value.push(0x80 | (self.rng.below(32) << 2) as u8 | (len - 1) as u8),
            }
            left -= len;
        }
        value
    }

    fn geography(&mut self, kind: char) -> Vec<u8> {
        let unit = |rng: &mut Rng| rng.below(1 << 30) as f64 / (1u32 << 30) as f64;
        let near = self.rng.below(3) > 0;
        let odd = self.rng.one_in(40);
        match kind {
            'O' if odd => self.pick(&["180", "-180", "180.0001", "0", "-0", "abc", "inf", "nan"]),
            'L' if odd => {
                self.pick(&["85.05112878", "-85.05112878", "85.06", "-90", "0", "", "1e400"])
            }
            'O' if near => format!("{:.7}", 13.0 + unit(self.rng) * 2.0).into_bytes(),
            'L' if near => format!("{:.7}", 37.0 + unit(self.rng) * 2.0).into_bytes(),
            'O' => format!("{:.7}", unit(self.rng) * 360.0 - 180.0).into_bytes(),
            'L' => format!("{:.7}", unit(self.rng) * 170.0 - 85.0).into_bytes(),
            'K' if odd => self.pick(&["-1", "abc", "", "inf", "1e20", "-0", "nan", "0"]),
            'K' => format!("{:.3}", 10f64.powf(unit(self.rng) * 7.0)).into_bytes(),
            _ if odd => self.pick(&["x", "", "kmm", "k"]),
            _ => self.pick(&["m", "km", "ft", "mi", "KM", "Mi", "m", "m"]),
        }
    }

    fn pick(&mut self, words: &[&str]) -> Vec<u8> {
        words[self.rng.below(words.len())].as_bytes().to_vec()
    }

    pub(crate) fn key(&mut self, kind: char) -> Vec<u8> {
        let kind = if kind == 'k' || (!self.faithful && self.rng.one_in(12)) {
            let kinds = if kind == 'y' { 6 } else { 7 };
            ['s', 'h', 'l', 'e', 'q', 'j', 'z'][self.rng.below(kinds)]
        } else {
            kind
        };
        format!("{}{kind}{}", self.key_prefix, self.rng.below(4)).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.below(16) {
            0..4 => (self.rng.below(40) as i64 - 20).to_string().into_bytes(),
            4 => self.integer(),
            5 => self.double(),
            6 => Vec::new(),
            7 => (0..self.rng.below(12)).map(|_| self.rng.below(256) as u8).collect(),
            8 => vec![b'a' + self.rng.below(26) as u8; 40 + self.rng.below(60)],
            9 if self.rng.one_in(8) => vec![b'L'; 5000 + self.rng.below(9000)],
            _ => self.field(),
        }
    }

    fn field(&mut self) -> Vec<u8> {
        match self.rng.below(14) {
            0 => self.rng.below(30).to_string().into_bytes(),
            1 => vec![b'm'; 60 + self.rng.below(10)],
            2 => vec![0, 255, b'\r', b'\n', self.rng.below(4) as u8],
            3 => Vec::new(),
            4..6 => format!("f{}", self.rng.below(300)).into_bytes(),
            _ => format!("f{}", self.rng.below(9)).into_bytes(),
        }
    }

    fn integer(&mut self) -> Vec<u8> {
        if self.rng.below(10) < 7 {
            return (self.rng.below(30) as i64 - 10).to_string().into_bytes();
        }
        self.pick(&[
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "-9223372036854775809",
            "4294967296",
            "2147483648",
            "-2147483649",
            "1000000",
            "99999999999999999999999",
            "",
            "abc",
            "1.5",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "0x10",
            "1e3",
            "9223372036854775806",
            "-1000",
        ])
    }

    /// A count of elements: small, so that replies stay small.
    fn count(&mut self) -> Vec<u8> {
        if self.rng.below(12) > 0 {
            return (self.rng.below(9) as i64 - 2).to_string().into_bytes();
        }
        self.pick(&["0", "-1", "abc", "", "9223372036854775808", "1.0", "4294967296"])
    }

    fn double(&mut self) -> Vec<u8> {
        match self.rng.below(12) {
            0..5 => (self.rng.below(20) as i64 - 8).to_string().into_bytes(),
            5..9 => format!("{}", (self.rng.below(400) as f64 - 160.0) / 8.0).into_bytes(),
            9 => self.pick(&["0.1", "3.3", "1e-7", "2.5e10", "1e20", "123456789.123456789"]),
            _ => self.pick(&[
                "inf",
                "-inf",
                "+inf",
                "infinity",
                "nan",
                "1e400",
                "-1e400",
                "1e-400",
                "abc",
                "",
                "1.5x",
                " 1",
                "-0",
                "0.0",
                "1e308",
                "1.7e308",
                "5e-324",
                "9007199254740993",
                "0x10",
                "-0x1p-3",
                "1.",
                ".5",
                "+2",
                "1e+2",
            ]),
        }
    }

    /// Ids that come from a clock would differ: most have the same milliseconds.
    fn new_id(&mut self) -> Vec<u8> {
        match self.rng.below(40) {
            0..29 => b"5-*".to_vec(),
            29..32 => b"6-*".to_vec(),
            32 => b"7-*".to_vec(),
            33 => self.pick(&["0-*", "18446744073709551615-*", "5-**", "*-1", "-*"]),
            34 => self.pick(&["99999999999999-1", "18446744073709551615-18446744073709551615"]),
            _ => self.id(),
        }
    }

    fn id(&mut self) -> Vec<u8> {
        match self.rng.below(24) {
            0..15 => format!("5-{}", self.rng.below(16)).into_bytes(),
            15..17 => format!("6-{}", self.rng.below(6)).into_bytes(),
            17 => self.rng.below(9).to_string().into_bytes(),
            18..20 => b"0".to_vec(),
            20 => b"0-1".to_vec(),
            _ => self.pick(&[
                "0-0",
                "7-1",
                "abc",
                "",
                "-1",
                "5-",
                "5--0",
                "5--1",
                "+",
                "-",
                " 5-1",
                "005-+3",
                "5-1 ",
                "18446744073709551615-18446744073709551615",
                "18446744073709551615-18446744073709551616",
                "-9223372036854775809-1",
                "99999999999999-1",
                "5-3-1",
                "(5-1",
            ]),
        }
    }

    fn interval_end(&mut self) -> Vec<u8> {
        match self.rng.below(8) {
            0 | 1 => b"-".to_vec(),
            2 | 3 => b"+".to_vec(),
            4 => [b"(", self.id().as_slice()].concat(),
            5 => self.pick(&["(", "((5-1", "(+", "(-", "(0-0", "(18446744073709551615", "(0"]),
            _ => self.id(),
        }
    }

    fn score_bound(&mut self) -> Vec<u8> {
        let open: &[u8] = if self.rng.one_in(3) { b"(" } else { b"" };
        let bound = match self.rng.below(4) {
            0 => self.pick(&["-inf", "+inf", "inf"]),
            _ => self.double(),
        };
        [open, &bound].concat()
    }

    fn lex_bound(&mut self) -> Vec<u8> {
        match self.rng.below(8) {
            0 => self.pick(&["", "f1", "(", "[", "+x", "-x", "x["]),
            1 | 2 => b"-".to_vec(),
            3 | 4 => b"+".to_vec(),
            n => [if n % 2 == 0 { &b"["[..] } else { b"(" }, &self.field()].concat(),
        }
    }

    /// Times are far away or past: what happens in between is the clock's business.
    fn time(&mut self, kind: char) -> Vec<u8> {
        if self.rng.one_in(10) {
            return self.pick(ABSURD_TIMES);
        }
        let span = 1000 + self.rng.below(100_000) as i64;
        // SET with a time that is past leaves a key that nobody sees and DBSIZE counts.
        let may_be_past = !matches!(kind, 'u' | 'w');
        let seconds =
            if may_be_past && self.rng.one_in(8) { -(self.rng.below(3) as i64) } else { span };
        let unix = crate::target::wall_clock_ms() as i64 / 1000;
        match kind {
            't' => seconds,
            'p' => seconds * 1000,
            'u' | 'U' => unix + seconds,
            _ => (unix + seconds) * 1000,
        }
        .to_string()
        .into_bytes()
    }
}
