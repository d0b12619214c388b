// Sentences to token ids: the same ids as dualpath.data.tokenizer, of which this is a translation.
const PADDING_ID = 0;
const PAPER_DELIMITERS = /[\p{White_Space}\-.,()]+/u;
const PAPER_DELIMITERS_WITH_QUESTION_MARK = /[\p{White_Space}\-.,()?]+/u;
const MODERN_WORDS = /[\p{L}\p{M}\p{N}]+(?:'\p{L}+)?|\p{So}/gu;
const CHINESE = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f], [0x2b740, 0x2b81f],
  [0x2b920, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
];

function isChinese(character) {
  const code = character.codePointAt(0);
  return CHINESE.some(([first, last]) => first <= code && code <= last);
}

// BertNormalizer's clean_text: control characters disappear, all white space becomes spaces. The
// Python library has Unicode's control characters of an early version, without these later ones.
const LATER_CONTROLS = /[\u0890\u0891\u08e2\u{110cd}\u{13430}-\u{1343f}]/u;
const LINE_SIGNS = new Set("\t\n\r");

function cleanText(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Co}\ufffd]/gu, (c) => (LINE_SIGNS.has(c) || LATER_CONTROLS.test(c) ? c : ""))
    .replace(/\p{White_Space}/gu, " ");
}

function normalise(text) {
  let result = "";
  // Character by character, as the Python library does: no rule for a sigma at the end of a word.
  for (const character of cleanText(text.normalize("NFC"))) {
    const lower = character.toLowerCase();
    result += isChinese(character) ? ` ${lower} ` : lower;
  }
  return result;
}

export function splitModern(text) { return normalise(text).match(MODERN_WORDS) ?? []; }

export function splitPaper(text, delimiters = PAPER_DELIMITERS_WITH_QUESTION_MARK) {
  return text.split(delimiters).filter((word) => word !== "");
}

// Returns a function of a sentence that returns its ids, without padding.
// settings: {mode: "paper" or "modern", max_words}; file: the content of tokenizer.json.
export function createTokenizer(settings, file) {
  const ids = new Map(Object.entries(file.model.vocab));
  const unknown = ids.get(file.model.unk_token);
  const isPaper = settings.mode === "paper";
  const marks = isPaper && file.pre_tokenizer.pattern.Regex.includes("?");
  const delimiters = marks ? PAPER_DELIMITERS_WITH_QUESTION_MARK : PAPER_DELIMITERS;
  const split = isPaper ? (text) => splitPaper(text, delimiters) : splitModern;
  return (sentence) => split(sentence.toWellFormed?.() ?? sentence)
    .map((word) => ids.get(word) ?? unknown)
    .filter((id) => id !== PADDING_ID && !(isPaper && id === unknown))
    .slice(0, settings.max_words);
}
