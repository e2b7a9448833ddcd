/// Lines are cut at this many bytes.
pub const MAX_LINE: usize = 8 << 10;

/// The text without what a terminal would act on: escape sequences, control codes (tabs become blanks), and characters
/// that change the direction of text around them. Newlines are control codes, too. Cut at [`MAX_LINE`].
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len().min(MAX_LINE));
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let kept = match character {
            '\x1b' => {
                skip_escape(&mut characters);
                continue;
            }
            '\u{9b}' => {
                skip_until(&mut characters, |character| matches!(character, '@'..='~'));
                continue;
            }
            '\t' => ' ',
            // Bidirectional embeddings, overrides and isolates (Unicode Standard Annex 9).
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => {
                continue;
            }
            character if character.is_control() => continue,
            character => character,
        };
        if plain.len() + kept.len_utf8() > MAX_LINE {
            break;
        }
        plain.push(kept);
    }
    plain
}

/// The same for each line of a text, which keeps its newlines.
pub fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Skips the rest of an escape sequence (ECMA-48, section 5.3): CSI, a control string (OSC and others), or a short one.
fn skip_escape(characters: &mut Characters<'_>) {
    match characters.next() {
        Some('[') => skip_until(characters, |character| matches!(character, '@'..='~')),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(character) = characters.next() {
                match character {
                    '\x07' | '\u{9c}' => return,
                    '\x1b' => {
                        characters.next_if_eq(&'\\');
                        return;
                    }
                    _ => {}
                }
            }
        }
        Some(' '..='/') => skip_until(characters, |character| matches!(character, '0'..='~')),
        _ => {}
    }
}

fn skip_until(characters: &mut Characters<'_>, end: impl Fn(char) -> bool) {
    for character in characters {
        if end(character) {
            return;
        }
    }
}
