//! Seeded random use of the libraries: hostile bytes crash nothing, and answers equal a stock
//! server's.

use super::common::Target;
use super::{Logged, shown, stock};

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, alphabet: &[u8], max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }

    /// A Lua expression.
    fn expression(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 8 } else { 12 }) {
            0 => "nil".to_owned(),
            1 => self.pick(&["true", "false"]).to_owned(),
            2 => self.below(300).to_string(),
            3 => format!("-{}.{}", self.below(70000), self.below(100)),
            4 => self.pick(&["2^31", "-2^31", "2^53", "1e100", "0.1", "2^32+1"]).to_owned(),
            5 | 6 => format!("'{}'", self.pick(&["", "a", "abc", "\\0\\255", "x\\ny", "12", "/"])),
            7 => "cjson.null".to_owned(),
            8 | 9 => {
                let items: Vec<_> =
                    (0..self.below(4)).map(|_| self.expression(depth - 1)).collect();
                format!("{{{}}}", items.join(","))
            }
            10 => format!("{{k={}}}", self.expression(depth - 1)),
            _ => format!("{{[{}]={}}}", 1 + self.below(12), self.expression(depth - 1)),
        }
    }
}

/// A script that calls one function of a library with random arguments; ARGV holds bytes.
fn script(rng: &mut Rng) -> (String, Vec<u8>) {
    let literal = rng.expression(3);
    match rng.below(9) {
        0 => (format!("return cjson.encode({literal})"), Vec::new()),
        1 => {
            let bytes = rng.bytes(b"[]{}:,\"\\u0019aetrufalsn. -+x", 12);
            ("return cjson.encode({cjson.decode(ARGV[1])})".to_owned(), bytes)
        }
        2 => (format!("return cmsgpack.pack({literal})"), Vec::new()),
        3 => {
            let mut bytes = rng.bytes(&(0..=255).collect::<Vec<u8>>(), 12);
            if let Some(first) = bytes.first_mut() {
                *first |= 0x80;
            }
            ("return cjson.encode({#{cmsgpack.unpack(ARGV[1])}})".to_owned(), bytes)
        }
        4 => {
            let format = rng.bytes(b"bBhHlLTiIfdscx<>! 0123489", 6);
            let format = String::from_utf8(format).unwrap();
            let data = rng.bytes(&[0, 1, 3, 65, 128, 255], 16);
            (format!("return cjson.encode({{struct.unpack('{format}', ARGV[1])}})"), data)
        }
        5 => {
            let format = String::from_utf8(rng.bytes(b"bBhHlLTiIcx<>!1248 ", 5)).unwrap();
            let args = (rng.below(500), rng.below(100_000), rng.below(9));
            let args = format!("{},-{},{},7", args.0, args.1, args.2);
            (format!("return struct.pack('{format}', {args})"), Vec::new())
        }
        6 => {
            let name = rng.pick(&["band", "bor", "bxor", "lshift", "rshift", "arshift", "rol"]);
            let (a, b) = (rng.next() as i64, rng.below(70) as i64 - 10);
            (format!("return bit.{name}({a}, {b})"), Vec::new())
        }
        7 => {
            let pattern = rng.bytes(b"abc.%[]^$()*+-?12dwsfz", 7);
            let text = "abcabc a1b2 (x) [y] ";
            ("return {string.find('TEXT', ARGV[1])}".replace("TEXT", text), pattern)
        }
        _ => {
            let pattern = rng.bytes(b"abc.%[]^$()*+-?12dws", 6);
            let with = rng.pick(&["'<%0>'", "'%1'", "{a='A',b=false}", "string.upper", "'x'"]);
            (format!("return {{string.gsub('abcab c12', ARGV[1], {with})}}"), pattern)
        }
    }
}

#[test]
fn random_uses_answer_as_a_stock_server_does() {
    let Some((_folder, mut redis)) = stock() else { return };
    let mut ours = Logged::new();
    let mut failures = Vec::new();
    let rounds: u64 =
        std::env::var("HOLDFAST_SCRIPT_ROUNDS").map_or(4000, |text| text.parse().unwrap());
    for seed in 0..rounds {
        let (script, arg) = script(&mut Rng(seed));
        let call: [&[u8]; 4] = [b"EVAL", script.as_bytes(), b"0", &arg];
        let (expected, found) = (redis.call(&call), ours.call(&call));
        if expected != found {
            failures.push(format!(
                "seed {seed}: {script} with {}\n  redis: {}\n  ours:  {}",
                arg.escape_ascii(),
                shown(&expected),
                shown(&found)
            ));
            if failures.len() > 40 {
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} differ\n{}", failures.len(), failures.join("\n"));
}

/// Calls every function of every library with every mixture of arguments: no crash, and the next
/// script runs.
#[test]
fn every_function_withstands_any_arguments() {
    super::on_large_stack(call_everything);
}

fn call_everything() {
    let mut engine = Logged::of(holdfast_engine::EngineConfig {
        script_budget: 3_000_000,
        ..holdfast_engine::EngineConfig::default()
    });
    for seed in 0..3000 {
        let mut rng = Rng(seed);
        let library = rng.pick(&[
            "cjson",
            "cmsgpack",
            "bit",
            "struct",
            "string",
            "table",
            "math",
            "redis",
            "coroutine",
            "_G",
            "os",
        ]);
        let args: Vec<_> = (0..rng.below(5))
            .map(|_| match rng.below(10) {
                0 => "function(...) return ... end".to_owned(),
                1 => "setmetatable({}, {__index = function(t, k) return k end})".to_owned(),
                2 => "string.rep('[', 5000)".to_owned(),
                3 => "1e18".to_owned(),
                4 => "0/0".to_owned(),
                5 => "_G".to_owned(),
                6 => library.to_owned(),
                _ => rng.expression(3),
            })
            .collect();
        let script = format!(
            "local names = {{}} for name in pairs({library}) do names[#names + 1] = name end
             table.sort(names) local f = {library}[names[{} % #names + 1]]
             if type(f) == 'function' then return tostring(pcall(f, {})) end return 'value'",
            rng.below(1000),
            if args.is_empty() { "nil".to_owned() } else { args.join(", ") }
        );
        let reply = engine.eval(&script);
        assert!(reply.as_bytes().is_some(), "seed {seed}: {reply:?}");
    }
    assert_eq!(engine.text("return 'next'"), "next");
}
