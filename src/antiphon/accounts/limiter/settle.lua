-- Corrects the reserved tokens to the real ones; the arithmetic is that of bucket.py.
-- KEYS: the hash of the token bucket. ARGV: reserved, actual, mark, born, period (s).
-- A bucket that was born after the reservation (Redis was emptied) owes it nothing back.
local saved = redis.call('HMGET', KEYS[1], 'used', 'out', 'at', 'limit', 'born')
if saved[5] ~= ARGV[4] then return 0 end
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local used, out = tonumber(saved[1]), tonumber(saved[2])
local elapsed = now - tonumber(saved[3])
if elapsed > 0 then
  local leaked = math.min(used, elapsed * tonumber(saved[4]) / tonumber(ARGV[5]))
  used = used - leaked
  out = out + leaked
end
local reserved, actual = tonumber(ARGV[1]), tonumber(ARGV[2])
if actual >= reserved then
  used = used + actual - reserved
else
  local own = math.min(reserved, math.max(0, tonumber(ARGV[3]) - out))
  local refund = math.min(reserved - actual, own, used)
  used = used - refund
  out = out + refund
end
redis.call('HSET', KEYS[1], 'used', string.format('%.17g', used), 'out', string.format('%.17g', out),
  'at', string.format('%.6f', now))
return 1
