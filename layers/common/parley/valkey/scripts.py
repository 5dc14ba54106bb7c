"""The log's operations as Lua scripts: each is atomic and takes one round trip.

Entry ids are cursors: `epoch-position`. An epoch's first entry is `epoch-0`, with its writer's name. A text
entry (`t`) has the position that the reply reaches with it. The terminal entry (`e`) has the position after
the last. Both have their MAC (`m`) as a second field, which no script looks at. Valkey refuses an id at or
below the newest, so a replaced writer is fenced off.

An epoch is the time of Valkey's clock in milliseconds. It is the last epoch plus one if that is greater, and
after a takeover. So epochs stay below 2^53 and are never used twice. They grow even if all data was lost in
between.
"""

import hashlib


class Script:
    """A Lua script, and the SHA-1 by which a server that has loaded it knows it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


# A reply of an epoch below the session's is no hit: the session has followed a later epoch.
# KEYS done, log, lease, attached, stops
# ARGV session, owner, session's epoch, may create, lease ms, log ttl ms, read, epoch that cannot be read
JOIN = Script("""
local mine = tonumber(ARGV[3])
local done = redis.call('GET', KEYS[1])
if done and (tonumber(string.match(done, '^%d+')) or mine) >= mine then return {'hit', done} end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local top, ended = 0, false
if #last > 0 then
  top = tonumber(string.match(last[1][1], '^%d+'))
  ended = last[1][2][1] == 'e'
end
local running = #last > 0 and not ended
local lease = redis.call('GET', KEYS[3])
local head = string.format('%.0f', top)
local function attach()
  redis.call('SADD', KEYS[4], ARGV[1])
  redis.call('PEXPIRE', KEYS[4], ARGV[6])
end
local function follow()
  attach()
  if ARGV[7] == '0' then return {'follow', head} end
  local rows = redis.call('XRANGE', KEYS[2], '(' .. head .. '-0', head)
  return {'follow', head, rows, redis.call('SMEMBERS', KEYS[5]), lease and 1 or 0}
end
if ended and top == mine and head ~= ARGV[8] then return follow() end
if running and lease then
  if lease ~= ARGV[2] then return follow() end
  attach()
  return {'write', head, 0}
end
if #last == 0 and ARGV[4] == '0' then return {'wait'} end
local epoch = math.max(top, mine) + 1
if not running then
  local time = redis.call('TIME')
  epoch = math.max(epoch, time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('DEL', KEYS[4])
end
attach()
local name = string.format('%.0f', epoch)
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[5])
redis.call('XADD', KEYS[2], name .. '-0', 'o', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('DEL', KEYS[5])
return {'write', name, running and 1 or 0}
""")

# `lost` asks for the same call with `seed` and the whole text.
# KEYS done, log, lease, attached, stops
# ARGV epoch, owner, position, text, seed, lease ms, log ttl ms, channel, end, done, cache ms, text's MAC,
# end's MAC if there is one
WRITE = Script("""
local lease = redis.call('GET', KEYS[3])
if lease and lease ~= ARGV[2] then return {'fenced'} end
local epoch, position = tonumber(ARGV[1]), tonumber(ARGV[3])
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local place = 0
if #last == 0 then
  if ARGV[5] == '0' then return {'lost'} end
  redis.call('XADD', KEYS[2], ARGV[1] .. '-0', 'o', ARGV[2])
else
  local top, at = string.match(last[1][1], '^(%d+)-(%d+)$')
  place = tonumber(at)
  if tonumber(top) ~= epoch then return {'fenced'} end
  if last[1][2][1] == 'e' then
    if ARGV[9] ~= '' then return {'ok', {}, 0} end
    return {'fenced'}
  end
end
if position > place and ARGV[4] ~= '' then
  redis.call('XADD', KEYS[2], ARGV[1] .. '-' .. ARGV[3], 't', ARGV[4], 'm', ARGV[12])
end
if ARGV[9] ~= '' then
  redis.call(
    'XADD', KEYS[2], ARGV[1] .. '-' .. string.format('%.0f', position + 1), 'e', ARGV[9], 'm', ARGV[13]
  )
  redis.call('DEL', KEYS[3])
  if ARGV[10] ~= '' then redis.call('SET', KEYS[1], ARGV[10], 'PX', ARGV[11]) end
else
  redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[6])
end
redis.call('PEXPIRE', KEYS[2], ARGV[7])
redis.call('PEXPIRE', KEYS[4], ARGV[7])
if ARGV[4] ~= '' or ARGV[9] ~= '' then redis.call('PUBLISH', ARGV[8], '1') end
return {'ok', redis.call('SMEMBERS', KEYS[5]), redis.call('SCARD', KEYS[4])}
""")

# KEYS done, log, lease, attached, stops
# ARGV epoch, position
READ = Script("""
local rows = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-' .. ARGV[2], ARGV[1])
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local current = #last > 0 and tonumber(string.match(last[1][1], '^%d+')) == tonumber(ARGV[1])
-- An epoch that ended is complete, even after a later one has begun.
if current or (#rows > 0 and rows[#rows][2][1] == 'e') then
  return {'rows', rows, redis.call('SMEMBERS', KEYS[5]), redis.call('EXISTS', KEYS[3])}
end
local done = redis.call('GET', KEYS[1])
if done and tonumber(string.match(done, '^%d+') or 0) == tonumber(ARGV[1]) then return {'done', done} end
return {'gone'}
""")

# KEYS attached, stops
# ARGV session, ttl ms, channel
STOP = Script("""
redis.call('SREM', KEYS[1], ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[3], '1')
return redis.call('SCARD', KEYS[1])
""")

# KEYS done, log, lease, attached, stops
# ARGV owner, channel
ABANDON = Script("""
if redis.call('SCARD', KEYS[4]) > 0 or redis.call('GET', KEYS[3]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('PUBLISH', ARGV[2], '1')
return 1
""")

# A reader's score is its arrival, and the caller knows it: a set that was lost comes to have the same newest
# readers again, whichever process tells of its own first.
# KEYS readers
# ARGV limit, ttl ms, number of readers who left, their ids; then id and arrival of each reader who is here
READERS = Script("""
local here = 4 + tonumber(ARGV[3])
for at = 4, here - 1 do redis.call('ZREM', KEYS[1], ARGV[at]) end
local time = redis.call('TIME')
local following = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #last > 0 then following = math.max(following, last[2] + 1) end
for at = here, #ARGV, 2 do
  local arrival = tonumber(ARGV[at + 1])
  -- A call that is sent again has counted its new readers before.
  if arrival == 0 then arrival = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[at]) or following) end
  redis.call('ZADD', KEYS[1], string.format('%.0f', arrival), ARGV[at])
  following = math.max(following, arrival + 1)
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local arrivals = {}
for at = here, #ARGV, 2 do
  arrivals[#arrivals + 1] = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[at]) or 0)
end
return arrivals
""")
