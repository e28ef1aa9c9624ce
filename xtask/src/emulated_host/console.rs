//! Reading the emulated host’s console: which lines are the program’s, and how it ended.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// How many of the last lines are kept for the case of failure.
const KEPT: usize = 40;

/// How the run ended, as far as the init told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The program ended with this status.
    Exited(u8),
    /// The program was never run, and why.
    Broken(String),
}

/// What the console has said so far.
pub struct Console {
    mark: String,
    running: bool,
    verdict: Option<Verdict>,
    file: Option<String>,
    last: VecDeque<String>,
}

impl Console {
    /// A console that has said nothing yet; the init’s own lines will begin with `mark`.
    pub fn new(mark: String) -> Self {
        Self { mark, running: false, verdict: None, file: None, last: VecDeque::new() }
    }

    /// Takes the next line and returns what of it the program printed, if anything.
    ///
    /// The program may have left its last line without an end, so a mark may stand in mid-line.
    pub fn line(&mut self, line: &str) -> Option<String> {
        let line = line.trim_end_matches(['\r', '\n']);
        self.remember(line);
        let Some((before, told)) = line.split_once(&self.mark) else {
            return (self.running && !is_kernel_message(line)).then(|| line.to_owned());
        };
        let printed = (self.running && !before.is_empty()).then(|| before.to_owned());
        let told = told.trim();
        match told.split_once(' ').unwrap_or((told, "")) {
            ("run", _) => self.running = true,
            ("file", text) => self.file = Some(text.to_owned()),
            ("exit", status) => self.verdict = status.parse().ok().map(Verdict::Exited),
            (_, reason) => self.verdict = Some(Verdict::Broken(reason.to_owned())),
        }
        if self.verdict.is_some() {
            self.running = false;
        }
        printed
    }

    /// How the run ended, if the init told.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// The file that the init sent, if it did.
    ///
    /// # Errors
    /// It did not come as it was sent.
    pub fn file(&self) -> Result<Option<Vec<u8>>, base64::DecodeError> {
        self.file.as_ref().map(|text| BASE64_STANDARD.decode(text)).transpose()
    }

    /// The last lines, whosever they were.
    pub fn last_lines(&self) -> String {
        self.last.iter().map(|line| format!("  | {line}\n")).collect()
    }

    fn remember(&mut self, line: &str) {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }
}

/// Whether a line begins with the time stamp of the kernel, `[   12.345678] `, or of the firmware,
/// which has its level in it, `[   12.345678901,5] `.
fn is_kernel_message(line: &str) -> bool {
    let stamp = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    let Some((seconds, fraction)) = stamp.and_then(|(stamp, _)| stamp.trim().split_once('.'))
    else {
        return false;
    };
    [seconds, fraction]
        .iter()
        .all(|part| part.bytes().all(|byte| byte.is_ascii_digit() || byte == b','))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds lines and returns what was shown, and the verdict.
    fn read(lines: &[&str]) -> (Vec<String>, Option<Verdict>) {
        let mut console = Console::new("mark:".to_owned());
        let shown = lines.iter().filter_map(|line| console.line(line)).collect();
        (shown, console.verdict().cloned())
    }

    #[test]
    fn only_the_program_is_shown() {
        let (shown, verdict) = read(&[
            "[    0.031415926,5] OPAL starting\r",
            "mark: run\r",
            "hello\r",
            "[    9.123456] KVM: something\r",
            "[    9.123456789,2] OPAL: something\r",
            "",
            "[not the kernel] 1.5",
            "mark: exit 0\r",
            "[   10.000000] reboot: Power down\r",
        ]);
        assert_eq!(shown, ["hello", "", "[not the kernel] 1.5"]);
        assert_eq!(verdict, Some(Verdict::Exited(0)));
    }

    #[test]
    fn verdicts() {
        let rows: [(&[&str], Option<Verdict>); 5] = [
            (&["mark: exit 3"], Some(Verdict::Exited(3))),
            (&["mark: run", "no line endmark: exit 139"], Some(Verdict::Exited(139))),
            (
                &["mark: broken kvm.ko does not load"],
                Some(Verdict::Broken("kvm.ko does not load".into())),
            ),
            (&["mark: exit nonsense"], None),
            (&["mark: run", "Kernel panic - not syncing"], None),
        ];
        for (lines, expected) in rows {
            assert_eq!(read(lines).1, expected, "{lines:?}");
        }
    }

    #[test]
    fn a_file_is_no_output_of_the_program() {
        for (line, file) in [
            ("mark: file AAEC/w==", Some(&[0, 1, 2, 255][..])),
            ("mark: file", Some(&[])),
            ("mark: file AAEC/w", None),
        ] {
            let mut console = Console::new("mark:".to_owned());
            assert_eq!(console.line("mark: run"), None);
            assert_eq!(console.line(line), None);
            assert_eq!(console.line("mark: exit 0"), None);
            assert_eq!(console.file().ok().flatten().as_deref(), file, "{line}");
        }
        assert_eq!(Console::new("mark:".to_owned()).file(), Ok(None));
    }

    #[test]
    fn an_unended_last_line_is_shown() {
        let (shown, _) = read(&["mark: run", "no line endmark: exit 0"]);
        assert_eq!(shown, ["no line end"]);
    }
}
