-- Reserves one request in all its buckets, or in none; the arithmetic is that of bucket.py.
-- KEYS: a hash per bucket, then, with a concurrency limit, the sorted set of leases.
-- ARGV: number of buckets; limit, period (s), units, whether it counts requests (1) or tokens (0), and to what the units
--       may fill it, per bucket; concurrency limit (0: none), lease name, lease (s), whether a refusal is charged (1 or 0).
-- Returns {refused, born, mark, used...}: refused is 0, the number of the bucket without room, or -1 for concurrency.
-- The clock is the server's own, so that servers with clocks apart count alike.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local n = tonumber(ARGV[1])
local at = 2 + 5 * n
local concurrency = tonumber(ARGV[at])

local buckets = {}
local refused = 0
for i = 1, n do
  local base = 2 + 5 * (i - 1)
  local saved = redis.call('HMGET', KEYS[i], 'used', 'out', 'at', 'limit', 'born')
  local b = {
    limit = tonumber(ARGV[base]), period = tonumber(ARGV[base + 1]), units = tonumber(ARGV[base + 2]),
    is_requests = ARGV[base + 3] == '1',
    used = tonumber(saved[1] or '0'), out = tonumber(saved[2] or '0'),
    born = saved[5] or string.format('%.6f', now),
  }
  -- The time until now passed under the limit that was in force, not under a new one.
  local elapsed = now - tonumber(saved[3] or now)
  if elapsed > 0 then
    local leaked = math.min(b.used, elapsed * tonumber(saved[4] or b.limit) / b.period)
    b.used = b.used - leaked
    b.out = b.out + leaked
  end
  buckets[i] = b
  if refused == 0 and b.used + b.units > tonumber(ARGV[base + 4]) + 0.000001 then refused = i end
end

if concurrency > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[n + 1], '-inf', now)
  if redis.call('ZCARD', KEYS[n + 1]) >= concurrency then refused = -1 end
end

local born, mark = '', ''
local only_tokens_full = refused > 0 and not buckets[refused].is_requests and ARGV[at + 3] == '1'
for i = 1, n do
  local b = buckets[i]
  if refused == 0 or (only_tokens_full and i ~= refused) then b.used = b.used + b.units end
  if not b.is_requests then
    born = b.born
    mark = string.format('%.17g', b.used + b.out)
  end
  redis.call('HSET', KEYS[i], 'used', string.format('%.17g', b.used), 'out', string.format('%.17g', b.out),
    'at', string.format('%.6f', now), 'limit', b.limit, 'born', b.born)
  -- Long enough for every reservation to be settled into the bucket that it was made in.
  redis.call('EXPIRE', KEYS[i], 172800)
end
if refused == 0 and concurrency > 0 then
  redis.call('ZADD', KEYS[n + 1], now + tonumber(ARGV[at + 2]), ARGV[at + 1])
  redis.call('EXPIRE', KEYS[n + 1], math.ceil(tonumber(ARGV[at + 2]) * 2))
end

local answer = {tostring(refused), born, mark}
for i = 1, n do answer[3 + i] = string.format('%.17g', buckets[i].used) end
return answer
