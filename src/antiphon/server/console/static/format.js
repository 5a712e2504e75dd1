// Numbers and times as people read them. What is not known is a dash, never 0.

export const NONE = "–";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayAndClock = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

const known = (value) => value !== null && value !== undefined;

export const count = (value) => (known(value) ? whole.format(value) : NONE);
export const compact = (value) => (known(value) ? (Math.abs(value) < 10000 ? whole.format(value) : short.format(value)) : NONE);
export const percent = (share) => (known(share) ? `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %` : NONE);

/** "1 request", "2 requests". */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** Seconds as a length of time: 0.4 ms, 12 ms, 1.25 s, 2 min 5 s. */
export function duration(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 0.001) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

export function dollars(usd) {
  if (!known(usd)) return NONE;
  if (usd === 0) return "$0";
  if (usd < 0.0001) return "< $0.0001";
  if (usd < 0.01) return `$${usd.toFixed(4)}`;
  return `$${usd.toFixed(usd < 1 ? 3 : 2)}`;
}

export function bytes(value) {
  if (!known(value)) return NONE;
  if (value < 1e6) return `${whole.format(value / 1e3)} kB`;
  return value < 1e9 ? `${whole.format(value / 1e6)} MB` : `${(value / 1e9).toFixed(1)} GB`;
}

export function rate(perSecond) {
  if (!known(perSecond)) return NONE;
  if (perSecond === 0) return "0";
  return perSecond < 10 ? perSecond.toFixed(1) : whole.format(perSecond);
}

/** The time of day, with the date when that is not today. */
export function when(unix) {
  const date = new Date(unix * 1000);
  return date.toDateString() === new Date().toDateString() ? clock.format(date) : dayAndClock.format(date);
}

export const fullTime = (unix) => full.format(new Date(unix * 1000));
export const dayOf = (unix) => day.format(new Date(unix * 1000));
export const hourOf = (unix) => `${String(new Date(unix * 1000).getHours()).padStart(2, "0")}:00`;
/** Buckets of days are in UTC. */
export const utcDayOf = (unix) =>
  new Date(unix * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
