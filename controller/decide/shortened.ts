/** Texts of others (a webhook's denial, an engine's last words) end up in a status that the API bounds (api/model.ts): a longer one would have it refused for ever. */

/** Longest text of a Model's status, characters. */
export const statusCharactersMax = 4096;
/** Longest that is taken over from a pod, so that several fit into one text, characters. */
export const quoteCharactersMax = 1024;

/** @returns the text, or as much of it as fits, with an ellipsis */
export const shortened = (text: string, most = statusCharactersMax): string =>
  text.length <= most ? text : `${text.slice(0, most - 1).replace(/[\uD800-\uDBFF]$/, '')}…`;

export const quoted = (text: string): string => shortened(text, quoteCharactersMax);
