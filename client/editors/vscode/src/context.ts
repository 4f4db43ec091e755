/** What of a document is sent for a completion. */

export interface Limits {
  prefixChars: number;
  suffixChars: number;
}

export const LIMITS: Limits = { prefixChars: 6000, suffixChars: 1500 };

/**
 * Return the text around an offset. The beginning moves in jumps, so that the daemon finds most of
 * it in its cache however much is typed.
 */
export function around(text: string, offset: number, limits = LIMITS): { prefix: string; suffix: string } {
  return {
    prefix: text.slice(start(text, offset, limits.prefixChars), offset),
    suffix: whole(text.slice(offset, offset + limits.suffixChars)),
  };
}

function start(text: string, offset: number, most: number): number {
  if (offset <= most) return 0;
  const half = Math.floor(most / 2);
  const jump = Math.floor((offset - half) / half) * half;
  const line = text.indexOf("\n", jump) + 1;
  return line > 0 && line <= offset ? line : jump;
}

/** Half a surrogate pair is no text. */
function whole(text: string): string {
  return /[\uD800-\uDBFF]$/.test(text) ? text.slice(0, -1) : text;
}
