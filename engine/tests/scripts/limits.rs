//! Hostile scripts: each ends, with an error that says why, and the next script runs.

use super::Logged;
use super::common::Target;
use holdfast_engine::EngineConfig;
use holdfast_proto::resp::reply::Value;

fn small_budget() -> Logged {
    Logged::of(EngineConfig { script_budget: 300_000, ..EngineConfig::default() })
}

const STOPPED: &str = "ERR Script stopped after 300000 instructions";

#[test]
fn endless_scripts_are_stopped() {
    let mut engine = small_budget();
    for script in [
        "while true do end",
        "repeat until false",
        "while true do pcall(function() while true do end end) end",
        "local function f() return pcall(f) end while true do f() end",
        "while true do xpcall(function() error('x') end, function() while true do end end) end",
        "local function f() return f() end f()",
        "while true do coroutine.wrap(function() for i = 1, 900 do end end)() end",
        "local co = coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end",
        "local co = coroutine.create(function() while true do end end) coroutine.resume(co) return 1",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "while true do redis.pcall('nosuch') end",
        "while true do redis.call('get', 'x') end",
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k + 1] end pcall(function() return t[1] end) while true do end",
        "local s = string.rep('a', 50) return string.find(s, string.rep('a-', 30) .. 'b')",
        "return string.find(string.rep('a', 1000), '.-.-.-.-.-.-b')",
        "return (string.gsub(string.rep('a', 5000), '.-.-.-b', 'x'))",
        "for w in string.gmatch(string.rep('(', 100000), '%b()') do end",
        "while true do string.rep('x', 1000000) end",
        "while true do cjson.encode({1, 2, 3}) end",
        "while true do cjson.decode('[1,2,3]') end",
        "local t = {} for i = 1, 40 do t = {t, t} end return cjson.encode(t)",
        "local t = {} for i = 1, 14 do t = {t, t, t, t} end return cmsgpack.pack(t)",
        "while true do cmsgpack.unpack(string.rep('\\1', 1000)) end",
        "while true do local ok = pcall(error, {}) end",
        "table.sort({1, 2, 3, 4, 5}, function() while true do end end)",
        "string.gsub('x', 'x', function() while true do end end)",
        "load(function() while true do end end)",
        "tostring(setmetatable({}, {__tostring = function() while true do end end}))",
    ] {
        let text = engine.text(script);
        assert!(text.starts_with(STOPPED), "{script}: {text}");
        assert_eq!(engine.text("return 'next'"), "next");
    }
}

/// A replica that has run many scripts must answer as one that starts now: whatever a script leaves
/// in the interpreter adds up.
#[test]
fn the_thousandth_script_runs_like_the_first() {
    let mut engine = Logged::of(EngineConfig::default());
    let scripts = [
        "return 'x'",
        "return tostring({}) .. tostring(print)",
        "redis.call('rpush', 'l', 'a') redis.call('ltrim', 'l', -9, -1) return #redis.call('lrange', 'l', 0, -1)",
        "return {pcall(error, {err = 'mine'})}",
        "return redis.pcall('nosuch')",
        "return redis.call('incr', 'l')",
        "return cjson.decode(cjson.encode({1, {a = 'b'}}))[2].a .. cmsgpack.pack({1, 'x'})",
        "return (string.gsub('abc', '%w', '%0%0')) .. string.format('%5.1f', 2.55)",
        "for w in string.gmatch('a b c', '%a') do redis.call('set', w, w) end return math.random(100)",
        "local co = coroutine.wrap(function() coroutine.yield(1) end) return co()",
        "error('own')",
    ];
    // The interpreter's stack ends at 8000 values.
    for round in 0..9000 {
        for script in scripts {
            let reply = format!("{:?}", engine.eval(script));
            assert!(!reply.contains("stack"), "round {round}: {script}: {reply}");
        }
    }
}

#[test]
fn a_stopped_script_names_its_line_and_keeps_what_it_wrote() {
    let mut engine = small_budget();
    let text = engine.text("redis.call('set', 'k', 'v')\nwhile true do\nend");
    assert!(text.ends_with(", on @user_script:2.") || text.ends_with(", on @user_script:3."));
    assert!(text.contains("script-instructions-max"));
    assert_eq!(engine.run("GET k").as_bytes().unwrap(), b"v");
}

#[test]
fn what_a_script_may_use_is_bounded() {
    super::on_large_stack(try_to_use_too_much);
}

fn try_to_use_too_much() {
    let mut engine = Logged::new();
    // The error stands where the nesting ends.
    let endless = engine.eval("local t = {} t[1] = t return t");
    assert!(format!("{endless:?}").contains("reached lua stack limit"), "{endless:?}");
    for (script, problem) in [
        ("return string.rep('x', 1e9)", "resulting string too large"),
        ("return string.rep('x', 1e18)", "resulting string too large"),
        ("local s = 'x' while true do s = s .. s end", "not enough memory"),
        ("local t = {} for i = 1, 1e9 do t[i] = {i} end", "not enough memory"),
        ("local function f() return 1 + f() end f()", "stack overflow"),
        ("return cjson.decode(('['):rep(100000))", "too many nested"),
        ("cjson.decode_max_depth(1e6) return cjson.decode(('['):rep(100000))", "too many nested"),
        (
            "cjson.encode_max_depth(1e6) local t = {} for i = 1, 1e5 do t = {t} end return cjson.encode(t)",
            "excessive nesting",
        ),
        ("return cmsgpack.unpack(('\\145'):rep(100000))", "stack overflow"),
        ("return cmsgpack.unpack(('\\192'):rep(100000))", "stack overflow"),
        ("return struct.unpack(('b'):rep(10000), ('x'):rep(10000))", "too many results"),
        ("return ('a'):rep(5000):match(('a?'):rep(5000) .. 'b')", "pattern too complex"),
        ("return loadstring(('('):rep(100000))()", "attempt to call a nil value"),
        ("return assert(loadstring(('('):rep(100000)))", "too many"),
        ("local f = loadstring('return ' .. ('{'):rep(250)) return f()", "nil value"),
        ("return unpack({}, 1, 1e7)", "too many results to unpack"),
        ("error(setmetatable({}, {__index = function() error('again') end}))", "ERR"),
        ("error(setmetatable({}, {__tostring = function() error('again') end}))", "ERR"),
        ("for k in pairs({[{}] = 1}) do end", "no order to iterate"),
        ("local t = {[redis.call] = 1} next(t)", "no order to iterate"),
        ("return cmsgpack.pack({[{}] = 1})", "no order to pack"),
    ] {
        let text = engine.text(script);
        assert!(text.contains(problem), "{script}: {text}");
        assert_eq!(engine.text("return 'next'"), "next", "after {script}");
    }
}

#[test]
fn large_results_are_refused_rather_than_built() {
    let mut engine = Logged::new();
    let text = engine.text("local t = {('x'):rep(1000)} for i = 1, 30 do t = {t, t} end return t");
    assert!(text.contains("too large"), "{text}");
}

#[test]
fn nothing_survives_from_script_to_script() {
    let mut engine = Logged::new();
    for script in [
        "table.insert(string, 'x')",
        "table.insert(_G, 'x')",
        "table.sort(redis)",
        "cjson.encode_max_depth(1)",
        "cjson.encode_sparse_array(true)",
        "redis.setresp(3)",
        "KEYS[1] = 'x' ARGV.y = 1",
    ] {
        engine.eval(script);
        let state = engine.text(
            "local n = 0 for k in pairs(string) do n = n + 1 end
             return table.concat({n, #KEYS, tostring(ARGV.y),
               cjson.encode({{{}}}), tostring(pcall(cjson.encode, {[1] = 1, [100] = 1})),
               tostring(string[1]), tostring(rawget(_G, 1)), type(redis.call('get', 'x'))}, ' ')",
        );
        let mut fresh = Logged::new();
        let expected = fresh.text(
            "local n = 0 for k in pairs(string) do n = n + 1 end
             return table.concat({n, #KEYS, tostring(ARGV.y),
               cjson.encode({{{}}}), tostring(pcall(cjson.encode, {[1] = 1, [100] = 1})),
               tostring(string[1]), tostring(rawget(_G, 1)), type(redis.call('get', 'x'))}, ' ')",
        );
        assert_eq!(state, expected, "after {script}");
    }
}

#[test]
fn addresses_and_clocks_are_not_visible() {
    let script = "local t, f = {}, function() end
        return table.concat({tostring(t), tostring(f), tostring(t), tostring(redis.call),
          tostring(coroutine.create(f)), collectgarbage('count'), gcinfo(),
          tostring(os.clock() < 1)}, ' ')";
    let mut engine = Logged::new();
    let first = engine.text(script);
    for i in 0..50 {
        engine.eval(&format!("local t = {{}} for i = 1, {i} do t[i] = {{}} end return #t"));
    }
    assert_eq!(engine.text(script), first);
    assert_eq!(Logged::new().text(script), first);
}

#[test]
fn time_stands_still_and_random_numbers_are_the_records() {
    let mut engine = Logged::new();
    let still = "local a = redis.call('time') for i = 1, 1e6 do end local b = redis.call('time')
        return a[1] == b[1] and a[2] == b[2] and a[1] .. ' ' .. math.random()";
    let (first, second) = (engine.text(still), engine.text(still));
    assert_ne!(first, second, "each record has its own random numbers");
    let mut other = Logged::new();
    assert_eq!((other.text(still), other.text(still)), (first, second));
}

#[test]
fn weak_tables_lose_nothing_to_the_collector() {
    // What only a weak table holds would be gone once the collector has been through: this makes
    // far more garbage than it lets lie.
    let count = "for i = 1, 1000 do t[i] = {} end
        for i = 1, 300000 do local garbage = {i} end
        local n = 0
        for i = 1, 1000 do if t[i] then n = n + 1 end end
        return n";
    for weak in [
        "local t = setmetatable({}, {__mode = 'v'})",
        "local m = {} local t = setmetatable({}, m) m.__mode = 'v'",
        "local m = {} local t = setmetatable({}, m) m['__' .. 'mode'] = 'kv'",
        "local m = {} local t = setmetatable({}, m) rawset(m, '__mode', 'v')",
        "local m = setmetatable({}, {__newindex = rawset}) local t = setmetatable({}, m) m.__mode = 'v'",
        // What stands in the name's place inside the interpreter.
        "local t = setmetatable({}, {['\\0mode\\0'] = 'v'})",
        "local t = setmetatable({}, cjson.decode('{\"__mode\":\"v\"}'))",
    ] {
        let mut engine = Logged::new();
        let reply = engine.eval(&format!("{weak} {count}"));
        assert_eq!(reply, Value::Integer(1000), "{weak}");
        // The name is a field like any other.
        assert_eq!(engine.text("local m = {__mode = 'v'} return next(m) .. m.__mode"), "__modev");
    }
}
