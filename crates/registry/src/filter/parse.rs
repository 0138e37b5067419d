use serde_json::Value;

use super::{Condition, Operator};

/// Longest filter, in bytes.
const MAX_FILTER: usize = 4096;

/// Deepest nesting of parentheses and `not`.
const MAX_DEPTH: usize = 32;

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {problem}")]
pub struct FilterError {
    /// From 1.
    pub at: usize,
    /// What is wrong, and what was expected.
    pub problem: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Operator(Operator),
    Open,
    Close,
    End,
}

struct Parser {
    /// With the character at which each begins, from 1.
    tokens: Vec<(usize, Token)>,
    next: usize,
}

pub(super) fn parse(text: &str) -> Result<Condition, FilterError> {
    if text.len() > MAX_FILTER {
        return Err(FilterError {
            at: 1,
            problem: format!(
                "the filter has {} bytes, more than {MAX_FILTER}",
                text.len()
            ),
        });
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
    };
    let condition = parser.any(0)?;
    match parser.peek() {
        Token::End => Ok(condition),
        _ => Err(parser.expected("`and`, `or` or the end")),
    }
}

impl Parser {
    fn any(&mut self, depth: usize) -> Result<Condition, FilterError> {
        let mut conditions = vec![self.all(depth)?];
        while self.takes("or") {
            conditions.push(self.all(depth)?);
        }
        Ok(one_or(conditions, Condition::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Condition, FilterError> {
        let mut conditions = vec![self.not(depth)?];
        while self.takes("and") {
            conditions.push(self.not(depth)?);
        }
        Ok(one_or(conditions, Condition::All))
    }

    fn not(&mut self, depth: usize) -> Result<Condition, FilterError> {
        if depth == MAX_DEPTH {
            return Err(self.expected("less nesting"));
        }
        if self.takes("not") {
            return Ok(Condition::Not(Box::new(self.not(depth + 1)?)));
        }
        if *self.peek() == Token::Open {
            self.next += 1;
            let condition = self.any(depth + 1)?;
            if *self.peek() != Token::Close {
                return Err(self.expected("`)`, `and` or `or`"));
            }
            self.next += 1;
            return Ok(condition);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Condition, FilterError> {
        let Token::Word(word) = self.peek().clone() else {
            return Err(self.expected("a field, such as accuracy.per_sample"));
        };
        let field: Vec<String> = word.split('.').map(str::to_owned).collect();
        if field.iter().any(String::is_empty) {
            return Err(self.expected("a field without empty parts"));
        }
        self.next += 1;
        let Token::Operator(operator) = *self.peek() else {
            return Err(self.expected("=, !=, <, <=, > or >="));
        };
        self.next += 1;
        let value = match self.peek().clone() {
            Token::Text(text) => Value::from(text),
            Token::Word(word) => literal(word),
            _ => return Err(self.expected("a number, a word or a \"text\"")),
        };
        self.next += 1;
        Ok(Condition::Compare {
            field,
            operator,
            value,
        })
    }

    fn peek(&self) -> &Token {
        // The last token is End, and it is never passed.
        &self.tokens[self.next].1
    }

    fn takes(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(word) if word == keyword);
        self.next += usize::from(found);
        found
    }

    fn expected(&self, what: &str) -> FilterError {
        FilterError {
            at: self.tokens[self.next].0,
            problem: format!("expected {what}"),
        }
    }
}

fn one_or(mut conditions: Vec<Condition>, join: fn(Vec<Condition>) -> Condition) -> Condition {
    match conditions.pop() {
        Some(only) if conditions.is_empty() => only,
        last => {
            conditions.extend(last);
            join(conditions)
        }
    }
}

/// A word that is JSON (a number, true, false, null) is that; any other is text.
fn literal(word: String) -> Value {
    match serde_json::from_str(&word) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => value,
        _ => word.into(),
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&character) = characters.get(at) {
        let begin = at;
        let next = characters.get(at + 1).copied();
        let (token, length) = match (character, next) {
            (c, _) if c.is_whitespace() => {
                at += 1;
                continue;
            }
            ('(', _) => (Token::Open, 1),
            (')', _) => (Token::Close, 1),
            ('!', Some('=')) => (Token::Operator(Operator::NotEqual), 2),
            ('<', Some('=')) => (Token::Operator(Operator::LessOrEqual), 2),
            ('>', Some('=')) => (Token::Operator(Operator::GreaterOrEqual), 2),
            ('<', _) => (Token::Operator(Operator::Less), 1),
            ('>', _) => (Token::Operator(Operator::Greater), 1),
            ('=', Some('=')) => (Token::Operator(Operator::Equal), 2),
            ('=', _) => (Token::Operator(Operator::Equal), 1),
            ('"' | '\'', _) => {
                let rest = &characters[at + 1..];
                let end = rest.iter().position(|&c| c == character);
                let end = end.ok_or_else(|| FilterError {
                    at: begin + 1,
                    problem: "the text has no end: expected another quotation mark".to_owned(),
                })?;
                (Token::Text(rest[..end].iter().collect()), end + 2)
            }
            (c, _) if is_word(c) => {
                let word: String = characters[at..]
                    .iter()
                    .take_while(|&&c| is_word(c))
                    .collect();
                let length = word.chars().count();
                (Token::Word(word), length)
            }
            (c, _) => {
                return Err(FilterError {
                    at: begin + 1,
                    problem: format!("{c:?} means nothing here: put texts in quotation marks"),
                });
            }
        };
        at += length;
        tokens.push((begin + 1, token));
    }
    tokens.push((characters.len() + 1, Token::End));
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | ':' | '/' | '@')
}
