//! `cargo xtask ptdump-pictures`: `ptdump`'s pages in a real browser.
//!
//! Chromium without a window opens the pages that `list --html` and `diff --html` write, runs
//! `check.js` in them, and takes screenshots. The check looks at the pixels that were painted:
//! each band has its blocks, in their colours, none narrower than can be seen; and at what search,
//! clicks and keys do. It takes a minute, and 110 MB to fetch; CI does not run it.

mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use duct::cmd;
use serde_json::{Value, json};

use crate::ptdump_proof::Ptdump;
use crate::report;
use crate::toolbox::table::CHROMIUM;
use crate::xtask::Xtask;
use tables::{ROOT, machine};

const CHECK: &str = include_str!("check.js");
/// Above the page's own script, so that an error in it is seen.
const LISTEN: &str = "<script>onerror = text => { const it = document.createElement('pre'); \
    it.id = 'broken'; it.textContent = text; document.documentElement.append(it); };</script>";

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    /// Keep pages and screenshots in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Open this page too, which ptdump wrote, without searches
    #[arg(long, value_name = "FILE")]
    page: Vec<PathBuf>,
}

/// Checks the pages.
pub fn run(xtask: &Xtask, options: &Options) -> Result<()> {
    let ptdump = Ptdump::build(xtask)?;
    let browser = xtask.toolbox.program(&CHROMIUM, "chromium-headless-shell")?;
    let temporary = tempfile::tempdir()?;
    let folder = match &options.keep {
        Some(folder) => {
            fs::create_dir_all(folder)?;
            std::path::absolute(folder)?
        }
        None => temporary.path().to_owned(),
    };
    let path = |name: &str| folder.join(name);
    fs::write(path("one.raw"), machine(false))?;
    fs::write(path("two.raw"), machine(true))?;
    let root = format!("{ROOT:#x}");
    let run = |words: &[&Path]| -> Result<()> {
        let words = words.iter().map(|word| word.as_os_str().to_owned());
        let tables = ["--arch", "x86-64", "--quiet", "--root", &root].map(Into::into);
        let output = cmd(ptdump.program(), words.chain(tables)).unchecked().run()?;
        // 1 says that images differ.
        if matches!(output.status.code(), Some(0 | 1)) {
            Ok(())
        } else {
            bail!("{}", output.status)
        }
    };
    let (one, two) = (path("one.raw"), path("two.raw"));
    run(&["list".as_ref(), &one, "--html".as_ref(), &path("list.html")])?;
    run(&["diff".as_ref(), &one, &two, "--html".as_ref(), &path("diff.html")])?;
    let mut pages = vec![(path("list.html"), searches()), (path("diff.html"), differences())];
    pages.extend(options.page.iter().map(|page| (page.clone(), json!([]))));
    for (page, searches) in &pages {
        check(&browser, page, &folder, searches).with_context(|| page.display().to_string())?;
    }
    println!("ptdump-pictures: ok pages={}", pages.len());
    Ok(())
}

/// What is typed into the search of a list, what it says, and how many ranges are below.
fn searches() -> Value {
    json!([
        { "text": "0x403123", "said": "0x0000000000403123 goes to 0x0000000001003123", "rows": 2 },
        { "text": "403123", "said": "is reached from 0xffff888000403123", "rows": 2 },
        { "text": "7fff`ffffe010", "said": "goes to 0x0000000005555010", "rows": 1 },
        { "text": "0x200300f", "said": "reached from 0x000000000060100f, 0xffff88800200300f" },
        { "text": "0x7777008", "said": "reached from", "rows": 2 },
        { "text": "w+x", "said": "1 of", "rows": 1 },
        { "text": "2m", "said": "1 of", "rows": 1 },
        { "text": "1g", "said": "1 of", "rows": 1 },
        { "text": "user", "said": "7 of", "rows": 7 },
        { "text": "r-x/r-x", "said": "1 of", "rows": 1 },
        { "text": "0x12345", "said": "is reached from" },
        { "text": "zebra", "said": "an address is hexadecimal", "rows": 0 },
        { "text": "fault", "said": "0 of", "rows": 0 },
    ])
}

fn differences() -> Value {
    json!([
        { "text": "only", "said": "1 of", "rows": 1 },
        { "text": "0x7fffffffe000", "said": "goes to 0x", "rows": 1 },
    ])
}

/// Opens a page, with the check behind its script.
fn check(browser: &Path, page: &Path, folder: &Path, searches: &Value) -> Result<()> {
    let name = page.file_stem().context("a name")?.to_string_lossy().into_owned();
    let text = fs::read_to_string(page)?;
    let (before, after) = text.rsplit_once("</script>").context("the page has no script")?;
    let (head, rest) = before.split_once("<style>").context("the page has no style")?;
    let expected = json!({ "searches": searches });
    let text = format!(
        "{head}{LISTEN}<style>{rest}\nconst expected = {expected};\n{CHECK}</script>{after}"
    );
    let checked = folder.join(format!("{name}.checked.html"));
    fs::write(&checked, text)?;
    let picture = folder.join(format!("{name}.png"));
    let profile = tempfile::tempdir()?;
    let arguments = [
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--window-size=1280,1000".to_owned(),
        format!("--user-data-dir={}", profile.path().display()),
        format!("--screenshot={}", picture.display()),
        format!("file://{}", checked.display()),
    ];
    let run = |arguments: &[String]| -> Result<String> {
        let output = cmd(browser, arguments).stdout_capture().stderr_capture().unchecked().run()?;
        if !output.status.success() {
            bail!("the browser: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    run(&arguments)?;
    let mut dump = arguments.to_vec();
    dump[4] = "--dump-dom".to_owned();
    let seen = run(&dump)?;
    if let Some((_, broken)) = seen.split_once("<pre id=\"broken\">") {
        bail!("the page's script fails: {}", broken.lines().next().unwrap_or_default());
    }
    let verdict = seen
        .split_once("<pre id=\"verdict\" hidden=\"\">")
        .and_then(|(_, rest)| rest.split_once("</pre>").map(|(verdict, _)| verdict.to_owned()));
    match verdict.as_deref() {
        Some("fine") if fs::metadata(&picture)?.len() > 10_000 => {
            report::note(&format!("{name}: fine ({})", picture.display()));
            Ok(())
        }
        Some("fine") => bail!("the screenshot is empty"),
        Some(wrong) => bail!("{wrong}"),
        None => bail!("the browser ran no check"),
    }
}
