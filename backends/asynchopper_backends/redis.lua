-- Every transition of a search on a server, each atomic. ARGV[1] names it; its words follow in the order in which they are
-- taken. The reply is an array that begins with a word: "ok", or what is wrong. A transition checks everything before it
-- writes anything, since the server does not undo what a script had written when it fails.
--
-- meta   hash: the layout, how many workers there ever were, the present budget, and in one packed field (FORM) all that is
--        counted, with the epoch that says whether these keys are the ones that a worker knew
-- log    stream: record n has the id (n + 1)-(microseconds when it was written), so that two histories never share an id
-- out    hash: trial -> "attempt n worker", n being the record by which it was last asked
-- free   zset: those of `out` that nobody evaluates any more, by trial
-- alive  zset: worker -> when its lease ends, in ms of the server's clock; all that it has out goes with it
-- ops    hash: worker -> its last turn and what that was answered, so that a turn said twice counts once
--
-- A worker is called by what it says of itself.
local meta, log, out, free, alive, ops = unpack(KEYS)
local call, match = redis.call, string.match
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local nonce = '-' .. time[1] .. string.format('%06d', time[2])
local LAYOUT = '2'
local NOTHING = '0  ' -- the last turn of a worker that has begun, and said nothing yet
local at = 1
local function arg() at = at + 1; return ARGV[at] end
local function number() return tonumber(arg()) end

local FORM = '<ddddddddddddddsss' -- as `load` unpacks it; a hash of so many fields is searched and spelled for too long
local m
local function load()
  local v = call('HMGET', meta, 'layout', 'counts')
  if v[1] ~= LAYOUT then
    m = {layout = v[1]}
    if v[1] then return 'layout' end
    return call('EXISTS', log, out) > 0 and 'torn' or 'empty'
  end
  local seq, told, next_id, n_out, n_free, limit, runs, ended, clock, tick, plain, till, first, live, last, epoch, owner =
    struct.unpack(FORM, v[2])
  m = {seq = seq, told = told, next = next_id, out = n_out, free = n_free, limit = limit, runs = runs, ended = ended,
    clock = clock, tick = tick, plain = plain, till = till, first = first, live = live, last = last, epoch = epoch,
    owner = owner}
  if seq == 0 and till <= now and call('EXISTS', log) > 0 then return 'torn' end -- whoever was to replace it is gone
end

local function store()
  local counts = struct.pack(FORM, m.seq, m.told, m.next, m.out, m.free, m.limit, m.runs, m.ended, m.clock, m.tick, m.plain,
    m.till, m.first, m.live, m.last, m.epoch, m.owner)
  if m.fresh then call('HSET', meta, 'layout', LAYOUT, 'counts', counts) else call('HSET', meta, 'counts', counts) end
end

local function add(data, key)
  m.seq = m.seq + 1
  m.last = m.seq .. nonce
  if key and key ~= '' then call('XADD', log, m.last, 'r', data, 'k', key) else call('XADD', log, m.last, 'r', data) end
end

-- Where the server's clock was set back, so is all that is due.
local function set_back()
  local back = m.tick - now
  if back <= 0 then return end
  local all = call('ZRANGE', alive, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do call('ZADD', alive, all[i + 1] - back, all[i]) end
  m.live, m.first, m.till, m.tick = m.live - back, m.first - back, m.till - back, now
  store() -- whatever comes of the rest
end

-- The search's clock runs while somebody works on it.
local function tick()
  if m.live > now or m.till > now then m.clock = m.clock + now - m.tick end
  m.tick = now
end

-- Whether what is counted is all there.
local function torn()
  return call('XLEN', log) ~= m.seq
    or (m.plain == 0 and (call('HLEN', out) ~= m.out or (m.free > 0 and call('ZCARD', free) ~= m.free)))
end

-- What follows a record, which has to be there still; and what is wrong, if anything is.
local function news(seen, most)
  if seen == m.last and seen ~= '' then -- the rule for one worker alone
    if torn() then return nil, 'torn' end
    return {}
  end
  local entries = call('XRANGE', log, seen == '' and '-' or seen, '+', 'COUNT', most + (seen == '' and 1 or 2))
  if seen ~= '' then
    local first = table.remove(entries, 1)
    if not first or first[1] ~= seen then return nil, 'lost' end
  end
  local last = #entries > 0 and entries[#entries][1] or seen
  if torn() or (#entries <= most and last ~= m.last) then return nil, 'torn' end
  return entries
end

local function hand_back(gone)
  local all = call('HGETALL', out)
  for i = 1, #all, 2 do
    if gone(match(all[i + 1], '^%d+ %d+ (.*)$')) then m.free = m.free + call('ZADD', free, all[i], all[i]) end
  end
end

local function bury(dead)
  local gone, any = {}, false
  for _, worker in ipairs(dead) do
    if call('ZREM', alive, worker) == 1 then gone[worker], any = true, true end
  end
  if any then hand_back(function(worker) return gone[worker] end) end
end

-- Renews a worker's lease. One that was taken for dead gets back what nobody else has begun.
local function renew(worker, lease)
  local ends = call('ZSCORE', alive, worker)
  if not ends or tonumber(ends) < now + 0.9 * lease then
    call('ZADD', alive, now + lease, worker)
    m.live = math.max(m.live, now + lease)
    m.first = math.min(m.first, now + lease) -- no lease ends earlier
  end
  if now >= m.first then
    local dead = {}
    for _, other in ipairs(call('ZRANGEBYSCORE', alive, '-inf', now)) do
      if other ~= worker then dead[#dead + 1] = other end
    end
    if #dead > 0 then bury(dead) end
    m.first = tonumber(call('ZRANGE', alive, 0, 0, 'WITHSCORES')[2])
  end
  if not ends then
    local all = call('HGETALL', out)
    for i = 1, #all, 2 do
      local owner = match(all[i + 1], '^%d+ %d+ (.*)$')
      if owner == worker then
        m.free = m.free - call('ZREM', free, all[i])
      elseif not call('ZSCORE', alive, owner) then
        m.free = m.free + call('ZADD', free, all[i], all[i])
      end
    end
  end
end

local function reply(worker, entries, replayed, verdicts, grants)
  local records = {}
  for i, entry in ipairs(entries) do records[i] = entry[2][2] end
  local next_end = 0
  if grants ~= '' and not match(grants, '^[%d ,]+$') then -- who got nothing may have to wait for a lease to end
    local first = call('ZRANGE', alive, 0, 1, 'WITHSCORES')
    for i = 1, #first, 2 do
      if first[i] ~= worker and next_end == 0 then next_end = tonumber(first[i + 1]) end
    end
  end
  return {'ok', now, m.clock, m.told, m.out, m.runs, replayed == nil and call('ZCARD', alive) or 0, next_end, m.last,
    replayed and 1 or 0, verdicts, grants, records, m.ended}
end

local function behind(entries)
  local records = {}
  entries[#entries] = nil
  for i, entry in ipairs(entries) do records[i] = entry[2][2] end
  return {'behind', entries[#entries][1], records}
end

local function held()
  return m.owner ~= '' and m.till > now
end

-- What a turn says: (kind, trial, attempt, record). Answers 0 dropped, 1 kept, 2 kept though somebody else had begun anew.
local function hear(worker, kind, id, attempt, record)
  local v = call('HGET', out, id)
  if not v then return 0 end
  local current, n, owner = match(v, '^(%d+) (%d+) (.*)$')
  local mine = current == attempt and owner == worker
  if kind == 'told' then
    add(record) -- first, since a full server refuses this, and nothing once a script has taken something away
    call('HDEL', out, id)
    if m.free > 0 then m.free = m.free - call('ZREM', free, id) end
    m.out, m.told = m.out - 1, m.told + 1
    return mine and 1 or 2
  end
  if not mine then return 0 end
  add(record)
  if kind == 'back' then -- it is nobody's, also where this worker is taken for dead and comes back
    m.free = m.free + call('ZADD', free, id, id)
    call('HSET', out, id, current .. ' ' .. n .. ' ')
  end
  return 1
end

-- What a turn asks for: gives "trial attempt", or why not. What was begun and given up comes before anything new.
local function give(worker, key, record, known)
  if m.limit >= 0 and m.told + m.out - m.free >= m.limit then return 'full' end
  if m.free > 0 then
    local id = call('ZRANGE', free, 0, 0)[1]
    local attempt, n = match(call('HGET', out, id), '^(%d+) (%d+)')
    local before = call('XRANGE', log, n + 1, n + 1)[1]
    if before then
      attempt = attempt + 1
      call('HSET', out, id, attempt .. ' ' .. m.seq .. ' ' .. worker) -- refused by a full server, so first
      m.free = m.free - call('ZREM', free, id)
      add((string.gsub(before[2][2], '^({"kind":"asked","id":%d+,"attempt":)%d+', '%1' .. attempt, 1)))
      return id .. ' ' .. attempt
    end
  end
  if record == '' then return 'none' end
  if key ~= '' then
    if known[key] then return 'known' end
    known[key] = true
  end
  local id = tostring(m.next)
  m.next, m.out = m.next + 1, m.out + 1
  call('HSET', out, id, '1 ' .. m.seq .. ' ' .. worker)
  add('{"kind":"asked","id":' .. id .. ',"attempt":1,' .. record, key)
  return id .. ' 1'
end

-- (worker, epoch, most, lease, turn, seen, n, n x (kind, trial, attempt, record), n, n x (key, record))
local function turn()
  local worker, turn, most = ARGV[2], ARGV[6], tonumber(ARGV[4])
  if m.epoch ~= ARGV[3] then return {'epoch'} end
  if held() then return {'locked', m.owner} end
  if m.plain == 1 then return {'plain'} end
  local entries, wrong = news(ARGV[7], most)
  if wrong then return {wrong, tostring(m.seq)} end
  if #entries > most then return behind(entries) end
  local n, said, granted = match(call('HGET', ops, worker) or NOTHING, '^(%d+) (%d*) (.*)$')
  if tonumber(n or 0) > tonumber(turn) then return {'stale'} end -- a copy that the network kept; nobody hears what it is answered
  tick()
  renew(worker, tonumber(ARGV[5]))
  if n == turn then
    store()
    return reply(worker, entries, true, said, granted)
  end
  local verdicts, grants, known, at = {}, {}, {}, 9
  for i = 1, tonumber(ARGV[8]) do
    verdicts[i] = hear(worker, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
    at = at + 4
  end
  local wanted = tonumber(ARGV[at])
  if wanted > 0 then
    for _, entry in ipairs(entries) do
      if entry[2][4] then known[entry[2][4]] = true end
    end
  end
  for i = 1, wanted do
    grants[i] = give(worker, ARGV[at + 2 * i - 1], ARGV[at + 2 * i], known)
  end
  verdicts, grants = table.concat(verdicts), table.concat(grants, ',')
  call('HSET', ops, worker, turn .. ' ' .. verdicts .. ' ' .. grants)
  store()
  return reply(worker, entries, false, verdicts, grants)
end

local name = ARGV[1]
local wrong = load()
if name == 'turn' then -- which is said far more often than the rest, and so not held up by what only the rest needs
  if wrong then return {wrong, m.layout or ''} end
  set_back()
  return turn()
end

local function blank(epoch)
  m = {seq = 0, told = 0, next = 0, out = 0, free = 0, limit = -1, runs = 0, ended = 0, clock = 0, tick = now, plain = 0,
    till = 0, first = 0, live = 0, last = '', epoch = epoch, owner = '', fresh = true}
end

local function fresh(epoch)
  call('DEL', meta, log, out, free, alive, ops)
  blank(epoch)
end

local function whole()
  if (m.seq > 0 and #call('XRANGE', log, m.last, m.last) == 0) or torn() then return 'torn' end
end

local act = {}

-- (worker, epoch, lease, seen)
function act.beat()
  local worker, epoch, lease, seen = arg(), arg(), number(), arg()
  if m.epoch ~= epoch then return {'epoch'} end
  if seen ~= '' and #call('XRANGE', log, seen, seen) == 0 then return {'lost', tostring(m.seq)} end
  tick()
  -- one that comes behind the goodbye brings nobody back
  if call('ZSCORE', alive, worker) or call('HEXISTS', ops, worker) == 1 then renew(worker, lease) end
  store()
  return {'ok', now, m.clock}
end

-- What a stranger may know: who is there.
function act.look()
  now = math.max(now, m.tick) -- a clock that was set back
  local there = call('ZRANGEBYSCORE', alive, '(' .. now, '+inf')
  return {'ok', m.epoch, m.seq, held() and m.owner or '', there}
end

-- (worker, lease, n, n x worker known to be dead; the first one as an owner)
function act.join()
  local worker, lease = arg(), number()
  local dead = {}
  for i = 1, number() do dead[i] = arg() end
  if m.owner ~= '' and (m.till <= now or m.owner == dead[1]) then m.owner, m.till = '', 0 end
  if held() then return {'locked', m.owner} end
  if m.seq == 0 then return {'empty'} end
  local wrong = whole()
  if wrong then return {wrong, tostring(m.seq)} end
  tick()
  bury(dead)
  renew(worker, lease)
  if call('HLEN', ops) > 1000 + 2 * call('ZCARD', alive) then -- the last words of workers that will hardly come back
    for _, other in ipairs(call('HKEYS', ops)) do
      if not call('ZSCORE', alive, other) then call('HDEL', ops, other) end
    end
  end
  local n = call('HINCRBY', meta, 'workers', 1)
  local begun = 0
  for _, other in ipairs(call('ZRANGE', alive, 0, -1)) do
    if other ~= worker then begun = begun + call('HEXISTS', ops, other) end
  end
  store()
  return {'ok', m.epoch, n - 1, call('ZCARD', alive) - 1, m.seq, m.last, m.clock, m.runs, m.plain, m.ended, begun}
end

-- (worker, lease, epoch, replace, limit, budget, n, n x record): a new search, with its first worker.
function act.create(absent)
  local worker, lease, epoch, replace, limit, budget = arg(), number(), arg(), arg(), number(), arg()
  if not absent and m.seq > 0 then
    if m.epoch == epoch then -- said again; others may have written meanwhile
      local records = number()
      store() -- a write, so that who waits for replicas or the disk waits for what was written then
      return {'ok', now, m.clock, call('XRANGE', log, records, records)[1][1]}
    end
    if replace ~= '1' then return {'exists'} end
    for _, other in ipairs(call('ZRANGEBYSCORE', alive, '(' .. now, '+inf')) do
      if other ~= worker then return {'locked', other} end
    end
  end
  if not absent and held() then return {'locked', m.owner} end
  fresh(epoch)
  local records = number()
  for i = 1, records do add(arg()) end
  m.limit, m.runs, m.plain = limit, 1, records > 2 and 1 or 0 -- more than a header and a run has to be counted
  call('HSET', meta, 'workers', 1, 'budget', budget)
  call('HSET', ops, worker, NOTHING)
  renew(worker, lease)
  store()
  return {'ok', now, m.clock, m.last}
end

-- (epoch, seq, told, next, clock, n, n x (trial, attempt, record)): counts of a log that was written without being counted.
function act.index()
  local epoch, seq, told, next_id, clock = arg(), number(), number(), number(), number()
  if m.epoch ~= epoch then return {'epoch'} end
  if m.plain == 0 then return {'ok'} end
  if m.seq ~= seq then return {'moved'} end
  call('DEL', out, free)
  m.told, m.next, m.out, m.plain = told, next_id, number(), 0
  m.free, m.clock, m.tick = m.out, math.max(m.clock, clock), now
  for i = 1, m.out do
    local id, attempt, n = arg(), arg(), arg()
    call('HSET', out, id, attempt .. ' ' .. n .. ' ')
    call('ZADD', free, id, id)
  end
  store()
  return {'ok'}
end

-- (worker, epoch, seen, most, lease, runs, limit, budget, record): a run begins, unless one has begun or ended meanwhile.
function act.run()
  local worker, epoch, seen, most, lease = arg(), arg(), arg(), number(), number()
  local runs, limit, budget, record = number(), number(), arg(), arg()
  if m.epoch ~= epoch then return {'epoch'} end
  local entries, wrong = news(seen, most)
  if wrong then return {wrong, tostring(m.seq)} end
  if #entries > most then return behind(entries) end
  tick()
  renew(worker, lease)
  local verdict = '0'
  if m.runs == runs then
    verdict = '1'
    call('HSETNX', ops, worker, NOTHING)
    add(record)
    local before = call('HGET', meta, 'budget') or budget
    call('HSET', meta, 'budget', budget)
    local other = m.limit ~= limit or before ~= budget
    local another = m.ended % 2 == 1 and 1 or other and 2 or 0 -- odd between a budget's end and the next one
    m.limit, m.runs, m.ended = limit, m.runs + 1, m.ended + another
  end
  store()
  return reply(worker, entries, nil, verdict, '')
end

-- (worker, epoch, seen, record, final, budget): a worker goes. The last one to go, or one that knows the end of the budget
-- that it had a part in, says so in the log.
function act.leave()
  local worker, epoch, seen, record, final, budget = arg(), arg(), arg(), arg(), arg(), number()
  if m.epoch ~= epoch then return {'epoch'} end
  if seen ~= '' and #call('XRANGE', log, seen, seen) == 0 then return {'lost', tostring(m.seq)} end
  tick()
  call('ZREM', alive, worker)
  call('HDEL', ops, worker)
  local last = call('ZRANGE', alive, -1, -1, 'WITHSCORES')
  m.live = tonumber(last[2] or now) -- the clock stands still once nobody is at work
  if m.plain == 0 then hand_back(function(owner) return owner == worker end) end
  if record ~= '' and m.ended == budget and m.ended % 2 == 0 and (final == '1' or #last == 0) then
    add(record)
    m.ended, m.runs = m.ended + 1, m.runs + 1
  end
  store()
  return {'ok'}
end

-- (epoch, from, most): a part of the log.
function act.page()
  local epoch, seen, most = arg(), arg(), number()
  if m.epoch ~= epoch then return {'epoch'} end
  local entries, wrong = news(seen, most)
  if wrong then return {wrong, tostring(m.seq)} end
  local records = {}
  if #entries > most then entries[#entries] = nil end
  for i, entry in ipairs(entries) do records[i] = entry[2][2] end
  return {'ok', #entries > 0 and entries[#entries][1] or seen, records}
end

-- (owner, lease, dead owner, n, n x dead worker, replace): the log for one owner.
function act.lock(absent)
  local owner, lease, dead = arg(), number(), arg()
  local buried = {}
  for i = 1, number() do buried[i] = arg() end
  if absent then blank('') else -- what is left of a search in pieces stays until something is written
    if m.owner == dead then m.owner = '' end
    if held() and m.owner ~= owner then return {'locked', m.owner} end
    bury(buried)
    local others = call('ZRANGEBYSCORE', alive, '(' .. now, '+inf')
    if #others > 0 then return {'busy', #others, others[1]} end
    local wrong = whole()
    if wrong and arg() ~= '1' then return {wrong, tostring(m.seq)} end
  end
  m.owner, m.till = owner, now + lease
  store()
  return {'ok', m.epoch, m.seq, m.last}
end

-- (owner, lease)
function act.hold()
  local owner, lease = arg(), number()
  if m.owner ~= owner then return {'gone'} end
  tick()
  m.till = now + lease
  store()
  return {'ok', now, m.clock}
end

-- (owner, or a worker that was cancelled while it joined)
function act.unlock()
  local owner = arg()
  local joined = call('ZREM', alive, owner) == 1
  if joined then
    tick()
    m.live = tonumber(call('ZRANGE', alive, -1, -1, 'WITHSCORES')[2] or now)
  end
  if m.owner == owner then m.owner, m.till = '', 0 elseif not joined then return {'ok'} end
  if m.seq == 0 then call('DEL', meta) else store() end
  return {'ok'}
end

-- (owner, lease, turn, epoch, new epoch, last, n, n x record): an owner adds a batch; with a new epoch, in place of all there is.
function act.append()
  local owner, lease, turn, epoch, new, last = arg(), number(), arg(), arg(), arg(), arg()
  if m.owner ~= owner then return {'gone'} end
  if call('HGET', ops, owner) == turn then
    store() -- as in `create`
    return {'ok', m.last}
  end
  if m.epoch ~= epoch then return {'epoch'} end
  if new == '' and (m.last ~= last or (m.seq > 0 and #call('XRANGE', log, last, last) == 0)) then
    return {'lost', tostring(m.seq)}
  end
  if new ~= '' then
    fresh(new)
    m.owner = owner
  end
  tick()
  m.till, m.plain = now + lease, 1
  for i = 1, number() do add(arg()) end
  call('DEL', ops)
  call('HSET', ops, owner, turn)
  store()
  return {'ok', m.last}
end

-- A script that meets a command which its user may not run has written by halves; so one who comes is asked before.
local function forbidden()
  for _, command in ipairs({
    {'HSET', meta, 'a', 'b'}, {'HSETNX', ops, 'a', 'b'}, {'HINCRBY', meta, 'a', 1}, {'HGET', out, 'a'}, {'HMGET', meta, 'a'},
    {'HGETALL', out}, {'HKEYS', ops}, {'HLEN', out}, {'HEXISTS', ops, 'a'}, {'HDEL', out, 'a'}, {'DEL', ops}, {'EXISTS', log},
    {'XADD', log, '1-1', 'r', 'a'}, {'XRANGE', log, '-', '+'}, {'XLEN', log}, {'ZADD', alive, 1, 'a'}, {'ZREM', alive, 'a'},
    {'ZCARD', alive}, {'ZSCORE', alive, 'a'}, {'ZRANGE', alive, 0, -1}, {'ZRANGEBYSCORE', alive, 0, 1},
  }) do
    local known, may = pcall(redis.acl_check_cmd, unpack(command)) -- a command that the server lacks shows when it is needed
    if known and not may then return string.lower(command[1]) end
  end
end

if redis.acl_check_cmd and (name == 'join' or name == 'create' or name == 'lock') then
  local command = forbidden()
  if command then return redis.error_reply("NOPERM this user has no permissions to run the '" .. command .. "' command") end
end

-- what cannot be read any more may be replaced
local replaced = (name == 'create' and ARGV[5] == '1') or (name == 'lock' and ARGV[#ARGV] == '1')
if (wrong == 'empty' and (name == 'create' or name == 'lock')) or (wrong == 'torn' and replaced) then return act[name](true) end
if wrong then return {wrong, m.layout or ''} end
if name ~= 'look' and name ~= 'page' then set_back() end -- those write nothing
return act[name]()
