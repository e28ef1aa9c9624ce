//! What each command begins with: the image is opened, the root found, and what the user should
//! know is said.

use std::fs::{self, File};
use std::io::ErrorKind::{TimedOut, WouldBlock};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use memory_image::{Extent, Form, GuestPiece, Held, Image, ImageError, ImageTables, Kind, Source};
use table_dump::{
    Arch, Located, Range, Request, RootChoice, Space, State, locate, locate_kernel, locate_process,
};

use crate::address::slb;
use crate::options::{ImageOptions, Options, Through};
use crate::output::{Text, tell};
use crate::progress::Progress;
use crate::{FAILED, FINE, NOT_SO, Usage};

/// How long QEMU may take for an answer,
const PATIENCE: Duration = Duration::from_secs(60);
/// and until it greets.
const GREETING: Duration = Duration::from_secs(10);

/// An image with its tables, as a command sees them.
pub struct Session<'s> {
    pub path: &'s Path,
    pub options: &'s Options,
    pub text: &'s Text,
    pub image: &'s Image<'s>,
    pub located: &'s Located,
    pub tables: &'s ImageTables<'s>,
    pub space: &'s Space<'s>,
}

/// What came of what was asked for, for the exit status.
#[derive(Clone, Copy, Default)]
pub struct Verdict {
    /// Something is not mapped, images differ, an audit found something.
    pub not_so: bool,
    /// Something is unknown.
    pub unknown: bool,
}

impl Verdict {
    /// Takes in an answer.
    pub fn take(&mut self, range: &Range) {
        match range.state {
            State::Mapped => {}
            State::Unknown => self.unknown = true,
            _ => self.not_so = true,
        }
    }

    /// The exit status.
    pub fn code(self) -> u8 {
        match self {
            Self { unknown: true, .. } => FAILED,
            Self { not_so: true, .. } => NOT_SO,
            _ => FINE,
        }
    }
}

/// Opens the image at `path`, finds its tables, and has `command` ask them. Returns the exit
/// status.
pub fn with<R>(
    path: &Path,
    options: &Options,
    root: Option<RootChoice>,
    text: &Text,
    command: impl FnOnce(&Session<'_>) -> Result<R>,
) -> Result<R> {
    opened(path, options, text, |image| find(image, options, root), command)
}

/// The same with the tables of the kernel itself, and with what it says of itself.
pub fn with_kernel<R>(
    path: &Path,
    options: &Options,
    text: &Text,
    command: impl FnOnce(&Session<'_>) -> Result<R>,
) -> Result<R> {
    let find = |image: &Image<'_>| {
        let progress = Progress::new("looking for the kernel", options.output.quiet);
        let request = asked(options, options.tables.root)?;
        Ok(locate_kernel(image, &request, &|done, total| progress.at(done, total))?)
    };
    opened(path, options, text, find, command)
}

fn opened<R>(
    path: &Path,
    options: &Options,
    text: &Text,
    find: impl FnOnce(&Image<'_>) -> Result<Located>,
    command: impl FnOnce(&Session<'_>) -> Result<R>,
) -> Result<R> {
    let image = open(path, options, text)?;
    let host;
    let image = match options.tables.through {
        None => &image,
        Some(second) => {
            host = guest(&image, second, options)?;
            &host
        }
    };
    let located = find(image)?;
    text.note(&format!("{}: {}, {}", path.display(), located.arch.name(), located.source));
    if options.tables.through.is_some() {
        text.note("  physical addresses are the guest's (--through)");
    }
    for remark in &located.remarks {
        text.note(&format!("  {remark}"));
    }
    let tables = image.tables(options.limits.allowance()).without(located.foreign);
    let space = Space::of(image, &tables, &located)?;
    command(&Session {
        path,
        options,
        text,
        image,
        located: &located,
        tables: &tables,
        space: &space,
    })
}

/// The image at `path`, with the files that belong to it.
pub fn open<'s>(path: &Path, options: &Options, text: &Text) -> Result<Image<'s>> {
    if let Some(address) = path.to_str().and_then(|path| path.strip_prefix("qmp:")) {
        if !(options.image.extent.is_empty() && options.image.part.is_empty()) {
            bail!("--extent and --part say nothing about a machine of QEMU's");
        }
        return live(address, text).with_context(|| path.display().to_string());
    }
    let what = || path.display().to_string();
    let source = |path: &Path| -> Result<Box<dyn Source>> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        if file.metadata().is_ok_and(|it| it.is_dir()) {
            bail!("{}: this is a folder", path.display());
        }
        Ok(Box::new(file))
    };
    let mut sources = vec![source(path)?];
    let image = if options.image.extent.is_empty() {
        for part in &options.image.part {
            sources.push(source(part)?);
        }
        if options.image.part.is_empty() {
            if let Some(beside) = beside(path) {
                text.note(&format!("{}: belongs to it", beside.display()));
                sources.push(source(&beside)?);
            } else if path.extension().is_some_and(|it| it == "vmem") {
                text.note("no .vmss or .vmsn stands beside the .vmem: memory above a hole is not where it seems (--extent)");
            }
        }
        Image::open_parts(sources, options.image.base.unwrap_or(0))
    } else {
        if !options.image.part.is_empty() {
            bail!("--part says nothing about raw memory in pieces: name the file in --extent");
        }
        let mut paths = vec![path.to_path_buf()];
        let mut extents = Vec::new();
        for piece in &options.image.extent {
            let wanted = piece.file.as_deref().unwrap_or(path);
            let file = match paths.iter().position(|path| path == wanted) {
                Some(file) => file,
                None => {
                    sources.push(source(wanted)?);
                    paths.push(wanted.to_path_buf());
                    paths.len() - 1
                }
            };
            let (start, bytes, offset) = (piece.start, piece.bytes, piece.offset);
            extents.push(Extent { start, bytes, file, offset });
        }
        Image::raw(sources, extents)
    };
    let image = image.with_context(what)?;
    if options.image.base.is_some() && image.form() != Form::Raw {
        let form = image.form().name();
        let why = format!("--base says nothing about this image ({form}): leave it out");
        return Err(Usage(why).into());
    }
    for warning in image.warnings() {
        text.warning(&format!("{}: {warning}", path.display()));
    }
    Ok(image)
}

/// The machine behind a QMP socket: a path, or HOST:PORT.
fn live<'s>(address: &str, text: &Text) -> Result<Image<'s>> {
    let image = if address.contains('/') || !address.contains(':') {
        let socket = UnixStream::connect(address)?;
        socket.set_read_timeout(Some(GREETING))?;
        let image = greeted(Image::open_qmp_unix(&socket))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        image
    } else {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(GREETING))?;
        let image = greeted(Image::open_qmp(socket.try_clone()?, socket.try_clone()?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        image
    };
    for warning in image.warnings() {
        text.warning(warning);
    }
    Ok(image)
}

/// Says what it may mean that QEMU says nothing.
fn greeted(image: Result<Image<'_>, ImageError>) -> Result<Image<'_>> {
    image.map_err(|error| match &error {
        ImageError::Io(why) if matches!(why.kind(), WouldBlock | TimedOut) => anyhow!(
            "it says nothing for {} s: QEMU talks to one client at a time (is there another?)",
            GREETING.as_secs()
        ),
        _ => error.into(),
    })
}

/// The file that belongs to a VMware machine's: for a `.vmem` its state, and the reverse.
fn beside(path: &Path) -> Option<PathBuf> {
    let others: &[&str] = match path.extension()?.to_str()? {
        "vmem" => &["vmss", "vmsn"],
        "vmss" | "vmsn" => &["vmem"],
        _ => return None,
    };
    others.iter().map(|other| path.with_extension(other)).find(|other| other.exists())
}

/// What the user says, for finding the root.
pub fn request(options: &Options, root: Option<RootChoice>) -> Result<Request> {
    let (tables, power) = (&options.tables, &options.power);
    Ok(Request {
        arch: tables.arch.map(Arch::from),
        root,
        tcr: tables.tcr,
        pid: power.pid,
        cpu: tables.cpu,
        vmcoreinfo: tables.vmcoreinfo,
        c_bit: tables.c_bit,
        mode_based_execute: tables.mode_based_execute,
        layout: power.hpte_layout.map(Into::into),
        slb: slb(&power.slb).map_err(|error| anyhow!(error))?,
        linux_layout: power.linux_layout.map(Into::into),
        linux: false,
    })
}

/// The same, of the tables that are asked in the end: options that say something of a second stage
/// in front of them are left out.
fn asked(options: &Options, root: Option<RootChoice>) -> Result<Request> {
    let mut request = request(options, root)?;
    if options.tables.through.is_some() {
        request.mode_based_execute = false;
    }
    Ok(request)
}

fn find(image: &Image<'_>, options: &Options, root: Option<RootChoice>) -> Result<Located> {
    let progress = Progress::new("looking for the tables", options.output.quiet);
    let request = asked(options, root)?;
    let progress = |done, total| progress.at(done, total);
    Ok(match &options.tables.process {
        Some(which) => {
            locate_process(image, &request, which, options.limits.allowance(), &progress)?
        }
        None => locate(image, &request, &progress)?,
    })
}

/// The memory of the guest behind a second stage.
fn guest<'i>(
    image: &'i Image<'i>,
    (arch, root, tcr): Through,
    options: &Options,
) -> Result<Image<'i>> {
    let request = Request {
        arch: Some(arch),
        root: Some(RootChoice::Address(root)),
        tcr,
        mode_based_execute: options.tables.mode_based_execute,
        ..Request::default()
    };
    let located = locate(image, &request, &|_, _| ()).context("--through")?;
    let tables = image.tables(options.limits.allowance());
    let space = Space::of(image, &tables, &located)?;
    let progress = Progress::new("reading the second stage", options.output.quiet);
    let mut pieces = Vec::new();
    let mut take = |range: Range| {
        if let (Some(guest), Some(host), Some(bytes)) = (range.va, range.pa, range.bytes) {
            if !tables.keep(size_of::<GuestPiece>() as u64) {
                return ControlFlow::Break(());
            }
            pieces.push(GuestPiece { guest, host, bytes });
        }
        ControlFlow::Continue(())
    };
    space.list(&mut take, &|done, total| progress.at(done, total));
    if let Some(why) = stopped(&tables) {
        bail!("--through: {why}");
    }
    if pieces.is_empty() {
        bail!("--through: the second stage at {root:#x} maps nothing");
    }
    Ok(Image::of_guest(image, pieces)?)
}

/// Why not all was read, if it was not.
fn stopped(tables: &ImageTables<'_>) -> Option<String> {
    let (words, bytes) = tables.cost();
    Some(match (tables.failure(), tables.spent()) {
        (Some(failure), _) => format!("the image cannot be read: {failure}"),
        (None, Some(Kind::Words)) => format!(
            "stopped after {words} table words: a sane system has fewer, or its tables lead in circles (--limit-words)"
        ),
        (None, Some(Kind::Bytes)) => {
            format!("stopped after {bytes} bytes of tables (--limit-memory)")
        }
        (None, None) => return None,
    })
}

impl Session<'_> {
    /// Whether nothing was left out.
    pub fn is_complete(&self) -> bool {
        stopped(self.tables).is_none()
    }

    /// The exit status: what came of it, unless something was left out. Says what was.
    pub fn end(&self, verdict: Verdict) -> u8 {
        match stopped(self.tables) {
            Some(why) => {
                tell(format_args!("ptdump: {why}"));
                FAILED
            }
            None => verdict.code(),
        }
    }

    /// Whether `path` is one of the files that the image is read from, by whatever name.
    pub fn reads(&self, path: &Path) -> bool {
        let Ok(written) = fs::metadata(path) else { return false };
        let ImageOptions { extent, part, .. } = &self.options.image;
        let (image, beside) = (self.path.to_path_buf(), beside(self.path));
        let pieces = extent.iter().filter_map(|piece| piece.file.clone());
        let files = [image].into_iter().chain(beside).chain(part.iter().cloned()).chain(pieces);
        files
            .filter_map(|file| fs::metadata(file).ok())
            .any(|file| (file.dev(), file.ino()) == (written.dev(), written.ino()))
    }

    /// Says that what was not found may stand where the image has nothing.
    pub fn say_unknown(&self, verdict: Verdict) {
        if verdict.unknown && self.is_complete() {
            self.text.warning("there may be more: the image does not hold all that is mapped");
        }
    }

    /// What to say of an address that is mapped by a guest and by no second stage behind it.
    pub fn behind(&self, range: &Range) -> Option<String> {
        let pa = range.pa.filter(|_| self.options.tables.through.is_some())?;
        let missing = self.image.piece(pa).held == Held::Outside;
        missing.then(|| format!("the second stage maps no page at guest physical {pa:#x}"))
    }

    /// What to say of an address that is not mapped, besides the fault.
    pub fn hint(&self, range: &Range) -> Option<&str> {
        let kernel = range.state == State::NotMapped
            && range.va.is_some_and(|va| va >= self.located.kernel_start());
        self.located.kernel_hint.as_deref().filter(|_| kernel)
    }
}
