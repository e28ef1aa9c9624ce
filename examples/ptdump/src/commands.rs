//! The commands: open the image, find the root, ask, show.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use memory_image::{Image, ImageTables, Kind};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use table_dump::{Arch, Located, Request, Space, locate};

use crate::address::{address, slb};
use crate::cli::{Addresses, Cli, Command, Listing, Options, Other};
use crate::output::Text;
use crate::picture::Picture;
use crate::progress::Progress;
use crate::{FAILED, FINE, NOT_SO, html, svg};

/// Does what the command line asks; returns the exit status.
pub fn run(cli: &Cli) -> Result<u8> {
    let options = &cli.options;
    let path = cli.image.as_deref().context("no image")?;
    let image = open(path, options)?;
    let found = find(&image, options, options.root)?;
    let text = Text::new(options.color);
    text.note(&format!("{}: {}, {}", path.display(), name(found.arch), found.source));
    let tables = image.tables(options.allowance());
    let space = Space::of(&image, &tables, &found.root)?;
    let code = match &cli.command {
        None => list(&space, &found, options, &text, &Listing::default())?,
        Some(Command::List(listing)) => list(&space, &found, options, &text, listing)?,
        Some(Command::Translate(addresses)) => translate(&space, options, &text, addresses)?,
        Some(Command::Stats) => stats(&space, options, &text)?,
        Some(Command::Diff(other)) => diff(&space, &found, options, &text, other)?,
    };
    Ok(if came_to_the_end(&tables) { code } else { FAILED })
}

fn open(path: &Path, options: &Options) -> Result<Image<File>> {
    let what = || path.display().to_string();
    let file = File::open(path).with_context(what)?;
    Image::open(file, options.base).with_context(what)
}

fn find(image: &Image<File>, options: &Options, root: Option<u64>) -> Result<Located> {
    let request = Request {
        arch: options.arch.map(Arch::from),
        root,
        pid: options.pid,
        cpu: options.cpu,
        layout: options.hpte_layout.into(),
        slb: slb(&options.slb).map_err(|error| anyhow!(error))?,
    };
    let progress = Progress::new("looking for the process table");
    Ok(locate(image, &request, &|done, total| progress.at(done, total))?)
}

fn name(arch: Arch) -> &'static str {
    match arch {
        Arch::Ppc64Radix => "ppc64-radix",
        Arch::Ppc64Hash => "ppc64-hash",
        Arch::X86_64 => "x86-64",
        Arch::X86_64La57 => "x86-64-la57",
        Arch::Ept => "ept",
    }
}

/// Whether nothing was left out; says what was.
fn came_to_the_end(tables: &ImageTables<'_, File>) -> bool {
    let (words, bytes) = tables.cost();
    match (tables.failure(), tables.spent()) {
        (Some(failure), _) => eprintln!("ptdump: stopped: the image cannot be read: {failure}"),
        (None, Some(Kind::Words)) => eprintln!(
            "ptdump: stopped after {words} table words: a sane system has fewer, or its tables lead in circles (--limit-words)"
        ),
        (None, Some(Kind::Bytes)) => {
            eprintln!("ptdump: stopped after {bytes} bytes of tables (--limit-memory)");
        }
        (None, None) => return true,
    }
    false
}

fn list(
    space: &Space<'_, File>,
    found: &Located,
    options: &Options,
    text: &Text,
    listing: &Listing,
) -> Result<u8> {
    let progress = Progress::new("reading tables");
    let progress = |done, total| progress.at(done, total);
    if listing.svg.is_some() || listing.html.is_some() {
        let mut picture = Picture::default();
        let mut take = |range| {
            picture.take(&range);
            ControlFlow::Continue(())
        };
        space.list(&mut take, &progress);
        picture.finish();
        let title = format!("{}, {}", name(found.arch), found.source);
        let files = [
            (&listing.svg, svg::draw as fn(&Picture, &str, &mut dyn Write) -> Result<()>),
            (&listing.html, html::write as fn(&Picture, &str, &mut dyn Write) -> Result<()>),
        ];
        for (path, draw) in files {
            let Some(path) = path else { continue };
            let file = File::create(path).with_context(|| path.display().to_string())?;
            let mut file = BufWriter::new(file);
            draw(&picture, &title, &mut file)?;
            file.flush()?;
        }
        return Ok(FINE);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if options.json {
        let mut result = Ok(());
        json_array(&mut out, |seq| {
            space.list(&mut |range| keep(&mut result, seq.serialize_element(&range)), &progress);
            result
        })?;
    } else {
        let mut result = Ok(());
        let halves = matches!(found.arch, Arch::X86_64 | Arch::X86_64La57);
        let mut last = None;
        space.list(
            &mut |range| {
                let heading = text.heading(halves, last.as_ref(), &range);
                let line = text.range(&range);
                last = Some(range);
                keep(
                    &mut result,
                    heading
                        .map_or(Ok(()), |it| writeln!(out, "{it}"))
                        .and_then(|()| writeln!(out, "{line}")),
                )
            },
            &progress,
        );
        result?;
    }
    out.flush()?;
    Ok(FINE)
}

/// Goes on as long as writing works.
fn keep<E>(result: &mut Result<(), E>, written: Result<(), E>) -> ControlFlow<()> {
    match written {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            *result = Err(error);
            ControlFlow::Break(())
        }
    }
}

/// Writes an array whose elements come one after the other, a line each.
fn json_array<W: Write>(
    out: &mut W,
    fill: impl FnOnce(
        &mut <&mut serde_json::Serializer<&mut W, Lines> as Serializer>::SerializeSeq,
    ) -> Result<(), serde_json::Error>,
) -> Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Lines);
    let mut seq = (&mut serializer).serialize_seq(None)?;
    fill(&mut seq)?;
    seq.end()?;
    writeln!(out)?;
    Ok(())
}

/// Compact, but for a line break before each element of the outermost array.
pub struct Lines;

impl serde_json::ser::Formatter for Lines {
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"{")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"\n " } else { b",\n " })
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n]")
    }
}

fn translate(
    space: &Space<'_, File>,
    options: &Options,
    text: &Text,
    addresses: &Addresses,
) -> Result<u8> {
    let mut wanted = Vec::new();
    for word in &addresses.addresses {
        if word == "-" {
            for line in io::stdin().lock().lines() {
                wanted.extend(line?.split_whitespace().map(str::to_owned));
            }
        } else {
            wanted.push(word.clone());
        }
    }
    let mut all = true;
    let mut answers = Vec::new();
    for word in wanted {
        let va = address(&word).map_err(|error| anyhow!("{word:?}: {error}"))?;
        let mut range = space.translate(va, addresses.access());
        all &= range.fault.is_none();
        if !addresses.walk {
            range.walk.clear();
        }
        answers.push(range);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if options.json {
        print_json(&mut out, &answers)?;
    } else {
        for range in &answers {
            writeln!(out, "{}", text.translation(range))?;
        }
    }
    out.flush()?;
    Ok(if all { FINE } else { NOT_SO })
}

fn print_json(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

fn stats(space: &Space<'_, File>, options: &Options, text: &Text) -> Result<u8> {
    let census = {
        let progress = Progress::new("counting");
        space.census(&|done, total| progress.at(done, total))
    };
    let mut out = BufWriter::new(io::stdout().lock());
    if options.json {
        print_json(&mut out, &census)?;
    } else {
        write!(out, "{}", text.census(&census))?;
    }
    out.flush()?;
    Ok(FINE)
}

fn diff(
    space: &Space<'_, File>,
    found: &Located,
    options: &Options,
    text: &Text,
    other: &Other,
) -> Result<u8> {
    let image = open(&other.other, options)?;
    let located = match (other.other_root, options.root) {
        (Some(root), _) => find(&image, options, Some(root))?,
        // The root that was given holds for both.
        (None, Some(root)) => find(&image, options, Some(root))?,
        (None, None) => find(&image, options, None)?,
    };
    if located.arch != found.arch {
        bail!("the images are of {} and {}", name(found.arch), name(located.arch));
    }
    text.note(&format!("{}: {}, {}", other.other.display(), name(located.arch), located.source));
    let tables = image.tables(options.allowance());
    let after = Space::of(&image, &tables, &located.root)?;
    let progress = Progress::new("comparing");
    let mut out = BufWriter::new(io::stdout().lock());
    let mut same = true;
    let progress = |done, total| progress.at(done, total);
    if options.json {
        let mut result = Ok(());
        let mut mismatch = Ok(());
        json_array(&mut out, |seq| {
            let mut visit = |difference| {
                same = false;
                keep(&mut result, seq.serialize_element(&difference))
            };
            mismatch = space.diff(&after, &mut visit, &progress);
            result
        })?;
        mismatch?;
    } else {
        let mut result = Ok(());
        let mut visit = |difference| {
            same = false;
            keep(&mut result, writeln!(out, "{}", text.difference(&difference)))
        };
        space.diff(&after, &mut visit, &progress)?;
        result?;
    }
    out.flush()?;
    let code = if same { FINE } else { NOT_SO };
    Ok(if came_to_the_end(&tables) { code } else { FAILED })
}
