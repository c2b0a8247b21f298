/**
 * Python's `strftime` in the C locale and the machine's time zone, for the templates that tell the model today's date.
 * `Intl` would say it in the operator's language.
 */
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];

/** What is not known stays as it is; `%-d` is `%d` without the zero in front. */
export function strftime(date: Date, format: string): string {
  return format.replaceAll(/%(-?)([A-Za-z%])/g, (directive, bare: string, letter: string) => {
    const text = format1(date, letter);
    if (text === undefined) return directive;
    return bare === "" ? text : text.replace(/^0+(?=.)/, "");
  });
}

function format1(date: Date, letter: string): string | undefined {
  const hour = date.getHours();
  switch (letter) {
    case "Y":
      return String(date.getFullYear());
    case "y":
      return pad(date.getFullYear() % 100);
    case "m":
      return pad(date.getMonth() + 1);
    case "d":
      return pad(date.getDate());
    case "H":
      return pad(hour);
    case "I":
      return pad(hour % 12 === 0 ? 12 : hour % 12);
    case "p":
      return hour < 12 ? "AM" : "PM";
    case "M":
      return pad(date.getMinutes());
    case "S":
      return pad(date.getSeconds());
    case "j":
      return pad(dayOfYear(date), 3);
    case "A":
      return DAYS[date.getDay()];
    case "a":
      return DAYS[date.getDay()]?.slice(0, 3);
    case "B":
      return MONTHS[date.getMonth()];
    case "b":
      return MONTHS[date.getMonth()]?.slice(0, 3);
    case "F":
      return strftime(date, "%Y-%m-%d");
    case "T":
      return strftime(date, "%H:%M:%S");
    case "%":
      return "%";
    default:
      return undefined;
  }
}

function pad(value: number, digits = 2): string {
  return String(value).padStart(digits, "0");
}

/** Counted in UTC, because a day of the local clock may have 23 hours. */
function dayOfYear(date: Date): number {
  const year = date.getFullYear();
  return (Date.UTC(year, date.getMonth(), date.getDate()) - Date.UTC(year, 0, 0)) / 86_400_000;
}
