//! The picture as SVG: a row for each band, coloured by page size, below it a strip coloured by
//! rights. Tool tips name the ranges.

use std::io::Write;

use anyhow::Result;
use table_dump::Rights;

use crate::address::human;
use crate::picture::{Band, Block, Look, Picture, colour, rights_colour, words};

const WIDTH: u64 = 960;
const LEFT: u64 = 170;
const ROW: u64 = 34;

/// What page sizes there are to explain.
const LEGEND: [(&str, u64); 5] = [
    ("4K", 0x1000),
    ("64K", 0x1_0000),
    ("2M", 0x20_0000),
    ("16M", 0x100_0000),
    ("1G", 0x4000_0000),
];

/// Draws.
pub fn draw(picture: &Picture, title: &str, out: &mut dyn Write) -> Result<()> {
    let bands = picture.bands();
    let height = 60 + ROW * bands.len() as u64;
    let width = LEFT + WIDTH + 20;
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="monospace" font-size="11">"#
    )?;
    writeln!(out, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
    writeln!(out, r#"<text x="10" y="18" font-size="13">{}</text>"#, escaped(title))?;
    let sizes = LEGEND.map(|(name, size)| (name, Look::Pages(size, Rights::default())));
    let looks = sizes.into_iter().chain([("mixed", Look::Mixed), ("fault", Look::Fault)]);
    for (n, (name, look)) in looks.enumerate() {
        let x = LEFT + 64 * n as u64;
        writeln!(out, r#"<rect x="{x}" y="28" width="12" height="12" fill="{}"/>"#, colour(look))?;
        writeln!(out, r#"<text x="{}" y="38">{name}</text>"#, x + 16)?;
    }
    let rights = [("w+x", "#e15759"), ("x", "#b279a2"), ("w", "#9d9d9d"), ("r", "#d8d8d8")];
    for (n, (name, colour)) in rights.into_iter().enumerate() {
        let x = LEFT + 480 + 60 * n as u64;
        writeln!(out, r#"<rect x="{x}" y="31" width="12" height="5" fill="{colour}"/>"#)?;
        writeln!(out, r#"<text x="{}" y="38">{name}</text>"#, x + 16)?;
    }
    for (n, band) in bands.iter().enumerate() {
        row(band, 52 + ROW * n as u64, out)?;
    }
    writeln!(out, "</svg>")?;
    Ok(())
}

fn row(band: &Band<'_>, y: u64, out: &mut dyn Write) -> Result<()> {
    let span = band.last - band.start;
    writeln!(out, r#"<text x="10" y="{}">{:#018x}</text>"#, y + 11, band.start)?;
    writeln!(
        out,
        r##"<text x="10" y="{}" fill="#777">{}</text>"##,
        y + 23,
        human(span.saturating_add(1))
    )?;
    writeln!(out, r##"<rect x="{LEFT}" y="{y}" width="{WIDTH}" height="24" fill="#f4f4f4"/>"##)?;
    for pixels in by_pixel(band) {
        let Pixels { first, last, block, blocks } = pixels;
        let x = LEFT + first;
        let width = last - first + 1;
        let what = words(block.look);
        let more =
            if blocks > 1 { format!(", and {} more ranges", blocks - 1) } else { String::new() };
        let to = block.pa.map_or(String::new(), |pa| format!(" -> {pa:#x}"));
        let tip = format!("{:#018x}-{:#018x}{to}: {what}{more}", block.start, block.last);
        writeln!(
            out,
            r#"<g><title>{}</title><rect x="{x}" y="{y}" width="{width}" height="18" fill="{}"/><rect x="{x}" y="{}" width="{width}" height="5" fill="{}"/></g>"#,
            escaped(&tip),
            colour(block.look),
            y + 19,
            rights_colour(block.look),
        )?;
    }
    Ok(())
}

/// Neighbouring pixels that show the same block, or blocks that look the same.
struct Pixels {
    first: u64,
    last: u64,
    /// The largest of them.
    block: Block,
    blocks: usize,
}

fn by_pixel(band: &Band<'_>) -> Vec<Pixels> {
    let span = u128::from(band.last - band.start) + 1;
    let pixel = |address: u64| (u128::from(address - band.start) * u128::from(WIDTH) / span) as u64;
    let mut all: Vec<Pixels> = Vec::new();
    for block in band.blocks {
        let (first, last) = (pixel(block.start), pixel(block.last));
        match all.last_mut() {
            // No pixel of its own is left: of those in one pixel the largest is seen, and a fault
            // before all others.
            Some(before) if before.last >= last => {
                before.blocks += 1;
                let narrow = before.first == before.last && before.block.look != Look::Fault;
                if narrow && block.bytes > before.block.bytes || block.look == Look::Fault {
                    before.block = *block;
                }
            }
            Some(before) if before.last >= first => {
                let first = before.last + 1;
                all.push(Pixels { first, last, block: *block, blocks: 1 });
            }
            _ => all.push(Pixels { first, last, block: *block, blocks: 1 }),
        }
    }
    all
}

/// Text as XML has it.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use table_dump::{Range, State};

    #[test]
    fn neighbours_keep_their_pixels() {
        let block = |start: u64, bytes: u64, size: Option<u64>| Block {
            start,
            last: start + (bytes - 1),
            bytes,
            look: size.map_or(Look::Fault, |size| Look::Pages(size, Rights::default())),
            pa: None,
        };
        let size = |look| match look {
            Look::Pages(size, _) => Some(size),
            _ => None,
        };
        // Nearly as many bytes as pixels: boundaries fall into pixels.
        let blocks = [
            block(0, 300, Some(1)),
            block(300, 1, Some(2)),
            block(301, 400, Some(4)),
            block(701, 299, None),
        ];
        let band = Band { start: 0, last: 999, blocks: &blocks };
        let seen: Vec<_> = by_pixel(&band)
            .iter()
            .map(|it| (it.first, it.last, size(it.block.look), it.blocks))
            .collect();
        assert_eq!(
            seen,
            [
                (0, 287, Some(1), 1),
                (288, 288, Some(2), 1),
                (289, 672, Some(4), 1),
                (673, 959, None, 1)
            ]
        );
    }

    #[test]
    fn blocks_become_rectangles() {
        let mut picture = Picture::default();
        for (va, bytes, size) in
            [(0x1000, 0x1000, 0x1000), (0x20_0000, 0x40_0000, 0x20_0000), (1 << 46, 4096, 4096)]
        {
            picture.take(
                &Range::mapped(Some(va), 7, size, Rights::default(), String::new()).of_bytes(bytes),
            );
        }
        picture.take(
            &Range::faulting((1 << 46) + (1 << 20), Some(4096), State::Malformed, "<&>".to_owned())
                .of_bytes(4096),
        );
        let mut out = Vec::new();
        draw(&picture, "a < b", &mut out).unwrap();
        let svg = String::from_utf8(out).unwrap();
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<title>").count(), 4, "{svg}");
        assert!(svg.contains("0x0000400000000000-0x0000400000000fff"), "{svg}");
        assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
    }
}
