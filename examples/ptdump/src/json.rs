//! JSON: an object that says of what image and tables it is, with what was asked for in it.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use crate::session::{Session, Verdict};

/// The number of the schema: another one means that something was taken away or says something
/// else.
pub const SCHEMA: u32 = 1;
/// The schema.
pub const SCHEMA_TEXT: &str = include_str!("../schema/ptdump.schema.json");

/// An object that is written while its answers come.
pub struct Json<W> {
    out: W,
    first: bool,
}

impl<W: Write> Json<W> {
    /// Begins the object; `key` will have the answers, as an array.
    pub fn begin(mut out: W, session: &Session<'_>, key: &str) -> Result<Self> {
        let head = head(session);
        let text = serde_json::to_string(&head)?;
        // All of it but the last brace.
        out.write_all(&text.as_bytes()[..text.len() - 1])?;
        writeln!(out, ",{}:[", serde_json::to_string(key)?)?;
        out.flush()?;
        Ok(Self { out, first: true })
    }

    /// One answer, on a line of its own, which ends with it: the comma stands before the next.
    pub fn answer(&mut self, answer: &impl Serialize) -> io::Result<()> {
        self.out.write_all(if self.first { b" " } else { b"," })?;
        self.first = false;
        serde_json::to_writer(&mut self.out, answer).map_err(io::Error::from)?;
        self.out.write_all(b"\n")
    }

    /// Sends on what was written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the object.
    pub fn end(mut self, session: &Session<'_>, verdict: Verdict) -> Result<()> {
        let complete = session.is_complete();
        writeln!(self.out, "],\"complete\":{complete},\"unknown\":{}}}", verdict.unknown)?;
        Ok(self.out.flush()?)
    }
}

/// An object whose answer is one value.
pub fn whole(
    mut out: impl Write,
    session: &Session<'_>,
    key: &str,
    value: &impl Serialize,
) -> Result<()> {
    let mut object = head(session);
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), serde_json::to_value(value)?);
        object.insert("complete".to_owned(), session.is_complete().into());
    }
    serde_json::to_writer_pretty(&mut out, &object)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// What each object begins with.
fn head(session: &Session<'_>) -> serde_json::Value {
    let (image, located) = (session.image, session.located);
    json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "image": {
            "path": session.path.display().to_string(),
            "form": image.form().name(),
            "bytes": image.bytes(),
            "warnings": image.warnings(),
        },
        "tables": {
            "arch": located.arch.name(),
            "root": format!("{:#x}", located.root.address()),
            "source": located.source,
            "remarks": located.remarks,
        },
    })
}
