//! `diff`: what two images translate differently.

use std::io;

use anyhow::{Result, bail};
use table_dump::{Difference, State};

use super::{Answers, keep};
use crate::cli::Other;
use crate::commands::list::{title, write};
use crate::html;
use crate::options::Options;
use crate::output::Text;
use crate::picture::Picture;
use crate::progress::Progress;
use crate::session::{Session, Verdict, with};

pub fn run(other: &Other, options: &Options, text: &Text) -> Result<u8> {
    with(&other.image, options, options.tables.root, text, |before| {
        // The root that was given holds for both.
        let root = other.other_root.or(options.tables.root);
        with(&other.other, options, root, text, |after| compare(before, after, other))
    })
}

fn compare(before: &Session<'_>, after: &Session<'_>, other: &Other) -> Result<u8> {
    let (one, two) = (before.located.arch.name(), after.located.arch.name());
    if one != two {
        bail!("the images are of {one} and {two}");
    }
    let mut verdict = Verdict::default();
    let mut picture = Picture::default();
    let mut answers =
        if other.html.is_none() { Some(Answers::begin(before, "differences")?) } else { None };
    let mut result: io::Result<()> = Ok(());
    {
        let progress = Progress::new("comparing", before.options.output.quiet);
        let mut visit = |difference: Difference| {
            match difference.state {
                Some(State::Unknown) => verdict.unknown = true,
                _ => verdict.not_so = true,
            }
            match &mut answers {
                Some(answers) => {
                    let text = || before.text.difference(&difference);
                    keep(&mut result, answers.show(&difference, text))
                }
                None => {
                    picture.take_difference(&difference);
                    std::ops::ControlFlow::Continue(())
                }
            }
        };
        before.space.diff(after.space, &mut visit, &|done, total| progress.at(done, total))?;
    }
    result?;
    if !after.is_complete() {
        return Ok(after.end(verdict));
    }
    match (answers, &other.html) {
        (Some(answers), _) => answers.end(before, verdict),
        (None, Some(path)) => {
            picture.finish();
            let title = format!("{} against {}", title(before), title(after));
            write(path, &[before, after], |out| html::write(&picture, &title, out))?;
            Ok(before.end(verdict))
        }
        (None, None) => Ok(before.end(verdict)),
    }
}
