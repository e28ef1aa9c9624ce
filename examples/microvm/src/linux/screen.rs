//! The guest's console as a person sees it, and its statements, which the VMM reads.

use std::io::{self, Write};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};

use guest_init::MARK;

use super::Event;

/// Shows what the guest prints. Lines that are statements go to the VMM, and are shown only if
/// asked for.
#[derive(Debug)]
pub struct Screen {
    prefix: String,
    verbose: bool,
    events: Sender<Event>,
    line: Mutex<Line>,
}

/// The line that is being printed.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    /// How many of them were shown.
    shown: usize,
}

/// Longer lines are cut: the guest decides how much it prints without an end.
const LONGEST: usize = 1 << 12;

impl Screen {
    /// Puts `prefix` before each line.
    pub fn new(prefix: String, verbose: bool, events: Sender<Event>) -> Self {
        Self { prefix, verbose, events, line: Mutex::default() }
    }

    /// Takes what the guest prints. That nobody may be looking any more is no concern of the
    /// guest's.
    pub fn print(&self, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes.iter().filter(|byte| **byte != b'\r') {
            if byte == b'\n' || line.bytes.len() == LONGEST {
                self.end(&mut line);
            } else {
                line.bytes.push(byte);
            }
        }
        // A prompt has no end of line, and must be seen all the same.
        if !MARK.as_bytes().starts_with(&line.bytes)
            && (self.verbose || !line.bytes.starts_with(MARK.as_bytes()))
        {
            let _ = self.show(&mut line);
            let _ = io::stdout().flush();
        }
    }

    fn end(&self, line: &mut Line) {
        let statement = line.bytes.starts_with(MARK.as_bytes());
        if self.verbose || !statement {
            let _ = self.show(line).and_then(|()| io::stdout().write_all(b"\n"));
        }
        if statement {
            let _ =
                self.events.send(Event::Said(String::from_utf8_lossy(&line.bytes).into_owned()));
        }
        *line = Line::default();
    }

    fn show(&self, line: &mut Line) -> io::Result<()> {
        let mut output = io::stdout().lock();
        if line.shown == 0 {
            output.write_all(self.prefix.as_bytes())?;
        }
        output.write_all(&line.bytes[line.shown..])?;
        line.shown = line.bytes.len();
        Ok(())
    }

    /// Says something that is not the guest's.
    pub fn note(&self, text: &str) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.shown > 0 {
            println!();
            line.shown = 0;
        }
        println!("linux: {text}");
    }
}
