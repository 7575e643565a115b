-- The sandbox. Runs once in a new interpreter, with the table of functions written in Rust; leaves
-- the globals that scripts see in raw.globals (their contents) and raw.env (the table itself).
local raw = ...
local G = _G
local error, type, select, next, tostring = error, type, select, next, tostring
local rawget, rawset, getmetatable, setmetatable = rawget, rawset, getmetatable, setmetatable
local pcall, xpcall, concat, unpack = pcall, xpcall, table.concat, unpack
local caught, charge, compile, number_of = raw.caught, raw.charge, raw.compile, raw.number_of
local stopped = raw.stopped

-- ---- tables that scripts cannot change -------------------------------------------------------------

local contents_of = {}
local READONLY = 'Attempt to modify a readonly table'

local function readonly()
  error(READONLY, 2)
end

-- A table that shows `contents` and refuses changes. Code inside the interpreter that writes
-- without asking (table.insert) is found out after the run: see raw.clean.
local function protect(contents, shown)
  local proxy = {}
  contents_of[proxy] = contents
  setmetatable(proxy, {__index = contents, __newindex = readonly, __metatable = shown or false})
  return proxy
end

local function missing(_, name)
  error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end

-- ---- the functions that must know of them ----------------------------------------------------------

local OBJECTS = {table = true, ['function'] = true, userdata = true, thread = true}

-- The order of keys that are objects would follow from their addresses, which differ from replica
-- to replica.
local function unordered()
  error('a table whose keys are tables, functions or coroutines has no order to iterate in', 3)
end

local function ordered_next(t, key)
  local k, v = next(contents_of[t] or t, key)
  if OBJECTS[type(k)] then unordered() end
  return k, v
end

local function ordered_pairs(t)
  if type(t) ~= 'table' then
    if t == nil then t = 'nil' else t = type(t) end
    error("bad argument #1 to 'pairs' (table expected, got " .. t .. ")", 2)
  end
  t = contents_of[t] or t
  for k in next, t do
    if OBJECTS[type(k)] then unordered() end
  end
  return next, t, nil
end

local function foreach(t, f)
  for k, v in ordered_pairs(t) do
    local r = f(k, v)
    if r ~= nil then return r end
  end
end

local function checked_rawset(t, k, v)
  if contents_of[t] then error(READONLY, 0) end
  return rawset(t, k, v)
end

local function checked_rawget(t, k)
  return rawget(contents_of[t] or t, k)
end

local function checked_setmetatable(t, m)
  if contents_of[t] then error(READONLY, 0) end
  local kind = type(t)
  if kind ~= 'table' then
    error("bad argument #1 to 'setmetatable' (table expected, got " .. kind .. ')', 2)
  end
  kind = type(m)
  if kind ~= 'table' and kind ~= 'nil' then
    error("bad argument #2 to 'setmetatable' (nil or table expected)", 2)
  end
  local ok, e = pcall(setmetatable, t, m)
  if not ok then error(e, 2) end
  return t
end

local function plain_tostring(value)
  if OBJECTS[type(value)] then
    local m = getmetatable(value)
    if type(m) ~= 'table' or m.__tostring == nil then return number_of(value) end
  end
  return tostring(value)
end

-- ---- errors ----------------------------------------------------------------------------------------

-- Errors raised in Rust arrive as userdata.
local function text_of(e)
  local kind = type(e)
  if kind == 'userdata' then return caught(e, false) end
  if kind == 'table' then
    local text = e.err
    if type(text) == 'string' or type(text) == 'number' then return text end
  end
  return e
end

local function after_pcall(ok, ...)
  if ok then return true, ... end
  return false, text_of((...))
end

local function guarded_pcall(...)
  return after_pcall(pcall(...))
end

local function guarded_xpcall(f, handler)
  return xpcall(f, function(e)
    -- The hook that stops a script raises its error with hooks switched off: no code of the
    -- script may run then.
    if stopped() then return e end
    if type(e) == 'userdata' then e = caught(e, true) end
    return handler(e)
  end)
end

local resume, create, wrap, yield = coroutine.resume, coroutine.create, coroutine.wrap, coroutine.yield

local function after_resume(ok, ...)
  if ok then return true, ... end
  local e = ...
  if type(e) == 'userdata' then e = caught(e, true) end
  return false, e
end

-- ---- code ------------------------------------------------------------------------------------------

local function load_pieces(f, name)
  local pieces = {}
  while true do
    local piece = f()
    if piece == nil or piece == '' then break end
    if type(piece) ~= 'string' then return nil, 'reader function must return a string' end
    pieces[#pieces + 1] = piece
  end
  return compile(concat(pieces), name or '=(load)')
end

-- ---- the globals -----------------------------------------------------------------------------------

local function copy(names, from)
  local t = {}
  for name in names:gmatch('%S+') do t[name] = from[name] end
  return t
end

local globals = copy('assert error getmetatable ipairs rawequal select tonumber type unpack', G)
globals._VERSION = G._VERSION
globals.pcall, globals.xpcall = guarded_pcall, guarded_xpcall
globals.next, globals.pairs = ordered_next, ordered_pairs
globals.rawget, globals.rawset = checked_rawget, checked_rawset
globals.setmetatable, globals.tostring = checked_setmetatable, plain_tostring
globals.loadstring, globals.load = compile, load_pieces
globals.collectgarbage = function() return 0 end
globals.gcinfo = function() return 0 end

local strings = copy('byte char dump format len lower reverse sub upper', string)
local gsub_text, gsub_matches = raw.strings.gsub_text, raw.strings.gsub_matches
for name in ('find gfind gmatch match rep'):gmatch('%S+') do strings[name] = raw.strings[name] end

function strings.gsub(s, p, replacement, max)
  local kind = type(replacement)
  if kind ~= 'function' and kind ~= 'table' then return gsub_text(s, p, replacement, max) end
  replacement = contents_of[replacement] or replacement
  local pieces, captures, count = gsub_matches(s, p, replacement, max)
  for i = 1, count do
    local value
    if kind == 'function' then
      value = replacement(unpack(captures[i]))
    else
      value = replacement[captures[i][1]]
    end
    if value then
      local found = type(value)
      if found ~= 'string' and found ~= 'number' then
        error('invalid replacement value (a ' .. found .. ')', 2)
      end
      pieces[i * 2] = value
    end
  end
  return concat(pieces), count
end

local maths = copy([[abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log
  log10 max min mod modf pi pow rad sin sinh sqrt tan tanh]], math)
maths.random, maths.randomseed = raw.random, raw.randomseed

local tables = copy('concat foreachi getn insert maxn remove setn sort', table)
tables.foreach = foreach

local coroutines = {
  status = coroutine.status,
  running = coroutine.running,
  yield = yield,
  -- A coroutine counts instructions by itself, up to the next look at the budget: that much is
  -- charged in advance.
  create = function(f)
    charge()
    local ok, co = pcall(create, f)
    if not ok then error("bad argument #1 to 'create' (Lua function expected)", 2) end
    return co
  end,
  wrap = function(f)
    charge()
    local ok, co = pcall(wrap, f)
    if not ok then error("bad argument #1 to 'wrap' (Lua function expected)", 2) end
    return co
  end,
  resume = function(co, ...)
    if type(co) ~= 'thread' then
      error("bad argument #1 to 'resume' (coroutine expected)", 2)
    end
    return after_resume(resume(co, ...))
  end,
}

local protected = {}

local function library(name, contents)
  globals[name] = protect(contents)
  protected[#protected + 1] = globals[name]
end

library('string', strings)
library('math', maths)
library('table', tables)
library('coroutine', coroutines)
library('os', {clock = raw.clock})
for name, contents in next, raw.libraries do library(name, contents) end

-- The method calls of strings.
local string_meta = getmetatable('')
string_meta.__index = globals.string
string_meta.__metatable = protect({__index = globals.string})

setmetatable(globals, {__index = missing})
local env = protect(globals, protect({__index = missing}))
globals._G = env
protected[#protected + 1] = env
protected[#protected + 1] = string_meta.__metatable
protected[#protected + 1] = getmetatable(env)

-- Whether no protected table was written to from inside the interpreter.
function raw.clean()
  for i = 1, #protected do
    if next(protected[i]) ~= nil then return false end
  end
  return true
end

-- A function without arguments that calls `f` with two.
function raw.bind(f, keys, args)
  return function() return f(keys, args) end
end

raw.globals, raw.env, raw.xpcall, raw.protect = globals, env, xpcall, protect
