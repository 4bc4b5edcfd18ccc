-- One verb on one lane of the shared limiter; the arithmetic is LocalLimiter's, the rules are in worker/limiter.py.
-- A script runs alone on the server, so nobody comes between what it reads and what it writes.
--
-- KEYS[1]  packshot:limiter:{ACCOUNT/LANE}        hash; all times in microseconds of the server's clock
--            latest        the latest slot that was handed out
--            factor        part of the pace in force, 0.1 to 1
--            paused_until  no slot before
--            changed_at    when the factor last moved
--            throttled_at  when the provider last said 429
--            strikes       how many times in a row it has, and the lane was only nudged
--            seen          the server's time at the last change, to notice a clock that was set back
--          Gone a day after its last use or slot; a lane without it starts at full pace with one slot now.
-- KEYS[2]  packshot:limiter:{ACCOUNT/LANE}:freed  sorted set of slots given back and still to come, scored by themselves
--          Gone a day after the last one was given back.
--
-- ARGV[1]  the verb      ARGV[2]  microseconds between two slots at factor 1
-- ARGV[3]  the time, for tests that move it; empty for the server's own
--
-- acquire    ARGV[4] the caller's furthest slot, 0 where that is long past   ARGV[5] microseconds until then
--            ARGV[6] how long to keep away from slots of a state that was lost
--            ARGV[7] no slot sooner than this from now                                     returns {now, slot, factor}
-- give_back  ARGV[4] the slot
-- throttled  ARGV[4] slower  ARGV[5] at most  ARGV[6] floor  ARGV[7] pause  ARGV[8] longest pause
--            ARGV[9] tolerated  ARGV[10] calm  ARGV[11] what a tolerated one leaves of the rate    returns {factor}
-- succeeded  ARGV[4] factor regained per second  ARGV[5] at most so many seconds of it              returns {factor}
-- rate       returns {factor}

local KEEP_MS = 24 * 3600 * 1000
local SKEW = 100000 -- between the server's clock and a caller's idea of how long it still waits

local verb, spacing, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end

local lane = redis.call('HMGET', KEYS[1], 'latest', 'factor', 'paused_until', 'changed_at', 'throttled_at', 'strikes', 'seen')
local known = lane[1] and true or false
local latest = tonumber(lane[1] or 0)
local factor = tonumber(lane[2] or 1)
local paused_until = tonumber(lane[3] or 0)
local changed_at = tonumber(lane[4] or 0)
local throttled_at = tonumber(lane[5] or 0)
local strikes = tonumber(lane[6] or 0)
local seen = tonumber(lane[7] or now)

local function every()
    return math.ceil(spacing / factor)
end

local function digits(time) -- tostring() would round a time of today to the minute
    return string.format('%.0f', time)
end

local function save()
    redis.call('HSET', KEYS[1], 'latest', digits(latest), 'factor', string.format('%.17g', factor),
        'paused_until', digits(paused_until), 'changed_at', digits(changed_at), 'throttled_at', digits(throttled_at),
        'strikes', digits(strikes), 'seen', digits(now))
    redis.call('PEXPIRE', KEYS[1], digits(KEEP_MS + math.max(0, latest - now, paused_until - now) / 1000))
end

if now < seen and verb ~= 'rate' then -- the clock was set back: everything moves along, or the lane would stand still
    local back = seen - now
    latest, paused_until = latest - back, paused_until - back
    changed_at, throttled_at = changed_at - back, throttled_at - back
    redis.call('DEL', KEYS[2])
end

if verb == 'acquire' then
    local earliest = math.max(now + tonumber(ARGV[7]), paused_until)
    local slot = redis.call('ZRANGEBYSCORE', KEYS[2], digits(earliest), '+inf', 'LIMIT', 0, 1)[1]
    if slot then
        redis.call('ZREM', KEYS[2], slot)
        slot = tonumber(slot)
    else
        -- a caller that holds a later slot than the lane knows of: the server lost its last second, or everything,
        -- and then other callers hold slots too
        local held = math.min(tonumber(ARGV[4]), now + tonumber(ARGV[5]) + SKEW)
        if held > 0 and not known then
            held = math.max(held, now) + tonumber(ARGV[6])
        end
        slot = math.max(earliest, math.max(latest, held) + every())
        latest = slot
    end
    save()
    return {now, slot, string.format('%.17g', factor)}
elseif verb == 'give_back' then
    local slot = tonumber(ARGV[4])
    if known and now <= slot and slot <= latest then
        redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. digits(now))
        redis.call('ZADD', KEYS[2], digits(slot), digits(slot))
        redis.call('PEXPIRE', KEYS[2], digits(KEEP_MS + (slot - now) / 1000))
    end
    return {}
elseif verb == 'throttled' then
    if now >= paused_until then -- else it is the same news, brought home by a call that was already under way
        local floor = tonumber(ARGV[6])
        strikes = 1 + (now - throttled_at <= tonumber(ARGV[10]) and strikes or 0)
        if strikes <= tonumber(ARGV[9]) then
            factor = math.max(floor, factor * tonumber(ARGV[11]))
        else
            strikes = 0
            factor = math.max(floor, math.min(tonumber(ARGV[5]), factor * tonumber(ARGV[4])))
            paused_until = now + math.min(tonumber(ARGV[8]), math.max(tonumber(ARGV[7]), every()))
        end
        throttled_at = now
        changed_at = now
        save()
    end
elseif verb == 'succeeded' then
    if factor < 1 and now >= paused_until then
        local borne_s = math.min((now - math.max(changed_at, paused_until)) / 1000000, tonumber(ARGV[5]))
        factor = math.min(1, factor + tonumber(ARGV[4]) * borne_s)
        changed_at = now
        save()
    end
end
return {string.format('%.17g', factor)}
