//! `info`: what an image is, whether or not its tables can be read.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use memory_image::{Held, Image};
use serde::Serialize;
use table_dump::locate;

use super::stdout;
use crate::address::human;
use crate::options::Options;
use crate::output::{Text, printable};
use crate::session::{open, request};
use crate::{FAILED, FINE, json};

/// The most pieces of memory that are shown.
const MOST_PIECES: usize = 64;

#[derive(Serialize)]
struct Info<'i> {
    schema: u32,
    version: &'static str,
    image: Described<'i>,
    memory: Vec<Piece>,
    cpus: Vec<Cpu>,
    kernels: Vec<Kernel<'i>>,
    tables: Option<Tables>,
    fault: Option<String>,
}

#[derive(Serialize)]
struct Described<'i> {
    path: String,
    form: &'static str,
    bytes: u64,
    warnings: &'i [String],
}

#[derive(Serialize)]
struct Piece {
    pa: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Cpu {
    cr0: String,
    cr3: String,
    cr4: String,
}

#[derive(Serialize)]
struct Kernel<'k> {
    release: Option<&'k str>,
    swapper_pg_dir: Option<String>,
}

#[derive(Serialize)]
struct Tables {
    arch: &'static str,
    root: String,
    source: String,
    remarks: Vec<String>,
}

pub fn run(path: &Path, options: &Options, text: &Text) -> Result<u8> {
    let image = open(path, options, text)?;
    let located = locate(&image, &request(options, options.tables.root)?, &|_, _| ());
    let (tables, fault) = match located {
        Ok(it) => {
            let root = format!("{:#x}", it.root.address());
            let arch = it.arch.name();
            (Some(Tables { arch, root, source: it.source, remarks: it.remarks }), None)
        }
        Err(why) => (None, Some(why.to_string())),
    };
    let hex = |number: u64| format!("{number:#x}");
    let notes = image.notes();
    let info = Info {
        schema: json::SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        image: Described {
            path: path.display().to_string(),
            form: image.form().name(),
            bytes: image.bytes(),
            warnings: image.warnings(),
        },
        memory: pieces(&image),
        cpus: notes
            .x86
            .iter()
            .map(|it| Cpu { cr0: hex(it.cr0), cr3: hex(it.cr3), cr4: hex(it.cr4) })
            .collect(),
        kernels: notes
            .vmcoreinfo
            .iter()
            .map(|it| Kernel {
                release: it.get("OSRELEASE"),
                swapper_pg_dir: it.symbol("swapper_pg_dir").map(hex),
            })
            .collect(),
        tables,
        fault,
    };
    let code = if info.tables.is_some() { FINE } else { FAILED };
    let mut out = stdout();
    if options.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&info)?)?;
    } else {
        writeln!(out, "{}", printable(&shown(&info, &image)))?;
    }
    out.flush()?;
    Ok(code)
}

/// The pieces of memory that the image holds; neighbours as one.
fn pieces(image: &Image<'_>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut next = 0;
    while let Some(start) = image.next_stored(next) {
        let mut end = start;
        loop {
            let piece = image.piece(end);
            if piece.held != Held::Stored {
                break;
            }
            match end.checked_add(piece.bytes) {
                Some(further) => end = further,
                None => break,
            }
        }
        pieces.push(Piece { pa: format!("{start:#x}"), bytes: end - start });
        if pieces.len() == MOST_PIECES || end <= next {
            break;
        }
        next = end;
    }
    pieces
}

/// What people see of it.
fn shown(info: &Info<'_>, image: &Image<'_>) -> String {
    let mut lines =
        vec![format!("form     {}", info.image.form), format!("memory   {}", human(image.bytes()))];
    let piece = |it: &Piece| format!("           {:>18}  {}", it.pa, human(it.bytes));
    lines.extend(info.memory.iter().map(piece));
    if info.memory.len() == MOST_PIECES {
        lines.push("           …".to_owned());
    }
    lines.extend(
        info.cpus.iter().enumerate().map(|(n, Cpu { cr0, cr3, cr4 })| {
            format!("cpu {n:<4} CR0 {cr0}  CR3 {cr3}  CR4 {cr4}")
        }),
    );
    lines.extend(info.kernels.iter().map(|Kernel { release, swapper_pg_dir }| {
        let root = swapper_pg_dir.as_deref().unwrap_or("unknown");
        format!("kernel   Linux {}, swapper_pg_dir {root}", release.unwrap_or("of no release"))
    }));
    if let Some(Tables { arch, root, source, remarks }) = &info.tables {
        lines.push(format!("tables   {arch}, root {root}, {source}"));
        lines.extend(remarks.iter().map(|remark| format!("         {remark}")));
    }
    lines.extend(info.fault.as_ref().map(|fault| format!("tables   {fault}")));
    lines.join("\n")
}
