/** How long ago something was, in the words of a list. */

const DAY = 86_400_000;

export function ageOf(time: string, now = new Date()): string {
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  const then = Date.parse(time);
  if (then >= midnight) return "Today";
  if (then >= midnight - DAY) return "Yesterday";
  if (then >= midnight - 7 * DAY) return "Last seven days";
  return "Older";
}
