/** Selects the text of a document for a completion request. */

export interface Limits {
  prefixChars: number;
  suffixChars: number;
}

export const LIMITS: Limits = { prefixChars: 6000, suffixChars: 1500 };

/**
 * Return the text around an offset. Its start moves in steps, so that most requests share a prefix
 * with the one before and hit the daemon's cache.
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

/** Drop half of a surrogate pair at the end. */
function whole(text: string): string {
  return /[\uD800-\uDBFF]$/.test(text) ? text.slice(0, -1) : text;
}
