//! JSON as a value (RFC 8259), without a dependency.

/// A JSON value. Members of an object stand in the order of the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value of a whole text.
    pub fn parse(text: &str) -> Result<Json, String> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at < text.len() { Err(reader.wrong("the end of the text")) } else { Ok(value) }
    }

    /// A member of an object; `None` also where it is `null`.
    pub fn get(&self, name: &str) -> Option<&Json> {
        let Json::Object(members) = self else { return None };
        members
            .iter()
            .find(|(member, _)| member == name)
            .map(|(_, value)| value)
            .filter(|v| **v != Json::Null)
    }

    pub fn number(&self) -> Option<f64> {
        if let Json::Number(number) = self { Some(*number) } else { None }
    }

    pub fn text(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    pub fn list(&self) -> Option<&[Json]> {
        if let Json::List(list) = self { Some(list) } else { None }
    }

    /// A whole number that a `usize` holds.
    pub fn size(&self) -> Option<usize> {
        self.number().filter(|x| *x >= 0.0 && x.fract() == 0.0 && *x < 1e15).map(|x| x as usize)
    }
}

/// Deeper than any case; a text that is all brackets must not overflow the stack.
const MAX_DEPTH: usize = 64;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, expected: &str) -> String {
        let line = self.text[..self.at].lines().count().max(1);
        format!("JSON, line {line}, byte {}: expected {expected}", self.at)
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    /// Whether `token` comes next; if so it is behind us.
    fn take(&mut self, token: &str) -> bool {
        let here = self.text[self.at..].starts_with(token);
        self.at += if here { token.len() } else { 0 };
        here
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        self.space();
        if self.take(token) { Ok(()) } else { Err(self.wrong(token)) }
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > MAX_DEPTH {
            return Err(self.wrong("fewer brackets inside each other"));
        }
        self.space();
        match self.peek() {
            Some('{') => {
                let mut members: Vec<(String, Json)> = Vec::new();
                self.items("{", "}", |reader| {
                    reader.space();
                    let name = reader.string()?;
                    if members.iter().any(|(member, _)| *member == name) {
                        return Err(reader.wrong("a name that is new"));
                    }
                    reader.expect(":")?;
                    members.push((name, reader.value(depth + 1)?));
                    Ok(())
                })?;
                Ok(Json::Object(members))
            }
            Some('[') => {
                let mut list = Vec::new();
                self.items("[", "]", |reader| {
                    list.push(reader.value(depth + 1)?);
                    Ok(())
                })?;
                Ok(Json::List(list))
            }
            Some('"') => Ok(Json::Text(self.string()?)),
            Some('-' | '0'..='9') => self.numeral(),
            _ if self.take("null") => Ok(Json::Null),
            _ if self.take("true") => Ok(Json::Bool(true)),
            _ if self.take("false") => Ok(Json::Bool(false)),
            _ => Err(self.wrong("a value")),
        }
    }

    /// What stands between brackets, with commas between.
    fn items(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        self.expect(open)?;
        self.space();
        if self.take(close) {
            return Ok(());
        }
        loop {
            item(self)?;
            self.space();
            if self.take(close) {
                return Ok(());
            }
            self.expect(",")?;
        }
    }

    fn numeral(&mut self) -> Result<Json, String> {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let token = &rest[..end.unwrap_or(rest.len())];
        let whole = token.strip_prefix('-').unwrap_or(token);
        let digits = whole.bytes().take_while(u8::is_ascii_digit).count();
        // Rust also reads `01`, `1.` and `.5`.
        let plain = digits == 1 || !whole.starts_with('0');
        let fraction = whole.split_once('.').is_none_or(|(_, f)| f.starts_with(|c: char| c.is_ascii_digit()));
        match token.parse::<f64>() {
            Ok(number) if number.is_finite() && digits > 0 && plain && fraction => {
                self.at += token.len();
                Ok(Json::Number(number))
            }
            _ => Err(self.wrong("a number")),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        if !self.take("\"") {
            return Err(self.wrong("a string"));
        }
        let mut string = String::new();
        loop {
            let c = self.peek().filter(|c| *c >= ' ').ok_or_else(|| self.wrong("the end of the string"))?;
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(string),
                '\\' => string.push(self.escaped()?),
                c => string.push(c),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, String> {
        let c = self.peek().ok_or_else(|| self.wrong("an escape"))?;
        self.at += c.len_utf8();
        Ok(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let high = self.hex()?;
                let code = match high {
                    0xd800..0xdc00 => {
                        let low = if self.take("\\u") { self.hex()? } else { 0 };
                        let half = low.checked_sub(0xdc00).filter(|half| *half < 0x400);
                        0x10000 + ((high - 0xd800) << 10) + half.ok_or_else(|| self.wrong("a surrogate"))?
                    }
                    code => code,
                };
                char::from_u32(code).ok_or_else(|| self.wrong("a character"))?
            }
            _ => return Err(self.wrong("an escape")),
        })
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or_else(|| self.wrong("four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }
}

/// That the reader takes JSON and nothing else.
pub fn check() -> Result<(), String> {
    let text = r#" {"a": [1, -2.5e3, 0, 1E-2], "b": {"c": null, "d": "\u00e9\ud83d\ude00\n/\/"}, "e": [], "f": {}, "g": true} "#;
    let json = Json::parse(text)?;
    let list: Vec<_> = json.get("a").and_then(Json::list).unwrap_or_default().to_vec();
    let inner = json.get("b").ok_or("no member b")?;
    let right = list == [1.0, -2500.0, 0.0, 0.01].map(Json::Number)
        && inner.get("c").is_none()
        && inner.get("d").and_then(Json::text) == Some("é😀\n//")
        && json.get("e") == Some(&Json::List(Vec::new()))
        && json.get("f") == Some(&Json::Object(Vec::new()))
        && json.get("g") == Some(&Json::Bool(true));
    if !right {
        return Err(format!("read {json:?}"));
    }
    for text in [
        "",
        "{",
        "[1,]",
        "[1 2]",
        "{\"a\" 1}",
        "{a: 1}",
        "{\"a\": 1, \"a\": 2}",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "1e",
        "1e999",
        "NaN",
        "Infinity",
        "nul",
        "\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\n\"",
        "1 1",
        "[1]]",
        &"[".repeat(1000),
    ] {
        if let Ok(json) = Json::parse(text) {
            return Err(format!("took {text:?} for {json:?}"));
        }
    }
    Ok(())
}
