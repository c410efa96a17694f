//! The data that the demo loads: a table with a header line, whose first column is the key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;

use crate::cli::Failure;
use crate::command::{check_key, check_value};

/// 28,298 airports; origin and licence are in `data/airports.LICENSE`.
const AIRPORTS: &[u8] = include_bytes!("../../data/airports.csv");

/// The largest file: it is held in memory twice.
const MAX_INPUT_BYTES: u64 = 256 << 20;

/// Put behind the last row: if it is not read as a row of its own, a quote before it was never closed.
const END: &str = "\0end";
const END_ROW: &[u8] = b"\n\0end\n";

/// Some key-value data.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Where they are from.
    pub(super) name: String,
    /// Each key once, with its last value: the row's other fields, written as in the file.
    pub(super) rows: Vec<(String, Bytes)>,
    /// How many rows were superseded by a later one with the same key.
    pub(super) duplicates: usize,
}

/// Reads `path`, or the airports that are built in.
pub(super) fn load(path: Option<&Path>) -> Result<Input, Failure> {
    let Some(path) = path else { return parse("28,298 airports".to_owned(), AIRPORTS) };
    let name = path.display().to_string();
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_INPUT_BYTES + 1).read_to_end(&mut text));
    read.map_err(|e| Failure::refused(format!("cannot read {name}: {e}")))?;
    if text.len() as u64 > MAX_INPUT_BYTES {
        return Err(Failure::refused(format!(
            "{name} is larger than {MAX_INPUT_BYTES} bytes: load a part of it"
        )));
    }
    parse(name, &text)
}

fn parse(name: String, text: &[u8]) -> Result<Input, Failure> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let header = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let tabs = header.contains(&b'\t');
    let delimiter = if tabs { b'\t' } else { b',' };
    // Tab-separated files know no quotes.
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(!tabs)
        .flexible(true)
        .from_reader(text.chain(END_ROW));
    let malformed = |line: u64, what: String| Failure::refused(format!("{name}, line {line}: {what}"));
    let line_of = |error: &csv::Error| error.position().map_or(1, csv::Position::line);
    let columns = match reader.headers() {
        Ok(header) => header.len(),
        Err(error) => return Err(malformed(line_of(&error), reason(&error))),
    };
    let mut rows = BTreeMap::new();
    let mut duplicates = 0;
    for record in reader.records() {
        let record = record.map_err(|error| malformed(line_of(&error), reason(&error)))?;
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() == 1 && &record[0] == END {
            break;
        }
        if record.iter().next_back().is_some_and(|field| field.ends_with("\0end\n")) {
            return Err(malformed(line, "its quotes are not closed: mend the row".to_owned()));
        }
        if record.len() != columns {
            let what = format!("it has {} fields, the header {columns}: mend the row", record.len());
            return Err(malformed(line, what));
        }
        let mut fields = record.iter();
        let key = fields.next().unwrap_or_default();
        check_key(key).map_err(|limit| malformed(line, limit.to_string()))?;
        let value = written_as_in_the_file(fields, delimiter, tabs).map_err(|what| malformed(line, what))?;
        check_value(&value).map_err(|limit| malformed(line, limit.to_string()))?;
        if rows.insert(key.to_owned(), value).is_some() {
            duplicates += 1;
        }
    }
    if rows.is_empty() {
        return Err(Failure::refused(format!(
            "{name} holds no rows: it needs a header line, then one line a key"
        )));
    }
    Ok(Input { name, rows: rows.into_iter().collect(), duplicates })
}

fn written_as_in_the_file<'a>(
    fields: impl Iterator<Item = &'a str>,
    delimiter: u8,
    tabs: bool,
) -> Result<Bytes, String> {
    let fields: Vec<&str> = fields.collect();
    if fields.is_empty() {
        return Ok(Bytes::new());
    }
    let quotes = if tabs { csv::QuoteStyle::Never } else { csv::QuoteStyle::Necessary };
    let mut writer =
        csv::WriterBuilder::new().delimiter(delimiter).quote_style(quotes).from_writer(Vec::new());
    writer.write_record(&fields).map_err(|e| e.to_string())?;
    let mut value = writer.into_inner().map_err(|e| e.to_string())?;
    // The end of the line.
    value.pop();
    Ok(Bytes::from(value))
}

fn reason(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8: convert the file".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<(String, String)> {
        let input = parse("x".into(), text.as_bytes()).unwrap();
        input.rows.into_iter().map(|(k, v)| (k, String::from_utf8(v.to_vec()).unwrap())).collect()
    }

    fn error(text: &[u8]) -> String {
        parse("x.csv".into(), text).unwrap_err().line()
    }

    #[test]
    fn the_airports_are_all_there() {
        let input = load(None).unwrap();
        assert_eq!((input.rows.len(), input.duplicates), (28_298, 0));
        let place = input.rows.binary_search_by(|(key, _)| key.as_str().cmp("EDDB")).unwrap();
        assert!(String::from_utf8_lossy(&input.rows[place].1).contains("Berlin"));
    }

    #[test]
    fn the_first_column_is_the_key_and_the_rest_the_value() {
        assert_eq!(
            rows("id,a,b\n1,x,\"y, z\"\n2,,\n"),
            [("1".into(), "x,\"y, z\"".into()), ("2".into(), ",".into())]
        );
        assert_eq!(rows("id\ta\tb\r\n1\tx\ty, \"z\r\n"), [("1".into(), "x\ty, \"z".into())]);
        assert_eq!(rows("\u{feff}id\n1\n"), [("1".into(), String::new())]);
    }

    #[test]
    fn the_last_of_equal_keys_wins_and_is_counted() {
        let input = parse("x".into(), b"id,a\n1,x\n2,y\n1,z\n").unwrap();
        assert_eq!(input.duplicates, 1);
        assert_eq!(input.rows[0], ("1".into(), Bytes::from("z")));
    }

    #[test]
    fn what_is_malformed_is_named_with_its_line() {
        assert_eq!(error(b"id,a\n1,x\n2\n"), "x.csv, line 3: it has 1 fields, the header 2: mend the row");
        assert_eq!(error(b"id,a\n,x\n"), "x.csv, line 2: a key must not be empty");
        assert_eq!(error(b"id,a\n1,x\n2,\xff\n"), "x.csv, line 3: it is not UTF-8: convert the file");
        assert!(error(b"").contains("holds no rows"));
        assert!(error(b"id,a\n").contains("holds no rows"));
        assert!(
            error(b"id,a\n1,\"x\n2,y\n").is_empty() || error(b"id,a\n1,\"x\n2,y,z\n").starts_with("x.csv")
        );
    }
}
