-- Holds dollars of a budget for one request in flight.
-- KEYS: the sorted set of leases, the hash of their amounts.
-- ARGV: dollars to hold, dollars left of the budget, lease name, lease (s), this server's name, the number of its last
--       settled hold that the dollars left already include.
-- Returns 1, or 0 where the holds leave too little. A request that is alone in flight is let in while anything is left.
-- An amount is "dollars server number"; number 0 is in flight, any other is settled and kept until every server has read
-- it from the database.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do redis.call('HDEL', KEYS[2], lease) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)

local usd, left, server, included = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[5], tonumber(ARGV[6])
local held, spent, in_flight = 0, 0, 0
for _, amount in ipairs(redis.call('HVALS', KEYS[2])) do
  local dollars, owner, number = string.match(amount, '^(%S+) (%S+) (%d+)$')
  number = tonumber(number)
  if number == 0 then
    in_flight = in_flight + 1
    held = held + tonumber(dollars)
  elseif owner ~= server or number > included then
    spent = spent + tonumber(dollars)
  end
end
left = left - spent
if left <= 0.000000001 or (in_flight > 0 and usd > 0 and held + usd > left + 0.000000001) then return 0 end

redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), ARGV[3])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[1] .. ' ' .. server .. ' 0')
for i = 1, 2 do redis.call('EXPIRE', KEYS[i], math.ceil(tonumber(ARGV[4]) * 2)) end
return 1
