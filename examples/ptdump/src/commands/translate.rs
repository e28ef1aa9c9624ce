//! `translate`: where addresses go.

use std::io::{self, BufRead as _, BufReader};

use anyhow::Result;
use serde::Serialize;

use super::Answers;
use crate::Usage;
use crate::address::address;
use crate::cli::Addresses;
use crate::options::Options;
use crate::output::Text;
use crate::session::{Session, Verdict, with};

/// What is said of a word that is no address.
#[derive(Serialize)]
struct NoAddress<'w> {
    input: &'w str,
    error: String,
}

pub fn run(addresses: &Addresses, options: &Options, text: &Text) -> Result<u8> {
    // What stands on the command line is looked at before the image is.
    for word in addresses.addresses.iter().filter(|word| *word != "-") {
        address(word).map_err(|why| Usage(format!("{word:?}: {why}")))?;
    }
    with(&addresses.image, options, options.tables.root, text, |session| {
        let mut asked = Asked { session, addresses, verdict: Verdict::default(), hinted: false };
        let mut answers = Answers::begin(session, "translations")?;
        for word in &addresses.addresses {
            if word != "-" {
                asked.answer(word, &mut answers)?;
                continue;
            }
            let mut input = BufReader::new(io::stdin().lock());
            let mut line = Vec::new();
            while input.read_until(b'\n', &mut line)? > 0 {
                for word in String::from_utf8_lossy(&line).split_whitespace() {
                    asked.answer(word, &mut answers)?;
                }
                line.clear();
                // Each line is answered before the next is waited for.
                if !input.buffer().contains(&b'\n') {
                    answers.flush()?;
                }
            }
        }
        answers.end(session, asked.verdict)
    })
}

struct Asked<'a, 's> {
    session: &'a Session<'s>,
    addresses: &'a Addresses,
    verdict: Verdict,
    hinted: bool,
}

impl Asked<'_, '_> {
    fn answer(&mut self, word: &str, answers: &mut Answers) -> Result<()> {
        let va = match address(word) {
            Ok(va) => va,
            Err(error) => {
                self.verdict.not_so = true;
                let text = format!("{word}: {error}");
                return Ok(answers.show(&NoAddress { input: word, error }, || text)?);
            }
        };
        let mut range = self.session.space.translate(va, self.addresses.access.access());
        self.verdict.take(&range);
        if let Some(why) = self.session.behind(&range) {
            self.verdict.not_so = true;
            self.session.text.warning(&why);
        }
        if !self.addresses.walk {
            range.walk.clear();
        }
        answers.show(&range, || self.session.text.translation(&range))?;
        if let Some(hint) = self.session.hint(&range).filter(|_| !self.hinted) {
            self.session.text.warning(hint);
            self.hinted = true;
        }
        Ok(())
    }
}
