//! The picture as a page that can be zoomed and searched: one file, no network, no library.

use std::io::Write;

use anyhow::Result;

use crate::picture::{Look, Picture, colour, rights_colour, words};
use crate::svg::escaped;

/// The page around the data.
const PAGE: &str = include_str!("page.html");

/// Writes the page.
pub fn write(picture: &Picture, title: &str, out: &mut dyn Write) -> Result<()> {
    let (head, rest) = PAGE.split_once("@DATA@").unwrap_or((PAGE, ""));
    let grain = picture.grain.to_string();
    out.write_all(head.replace("@TITLE@", &escaped(title)).replace("@GRAIN@", &grain).as_bytes())?;
    // Addresses as text: JavaScript's numbers do not hold 64 bits. All of it is numbers and letters
    // of ours.
    for block in picture.blocks() {
        let (size, rights) = match block.look {
            Look::Pages(size, rights) => (size, rights.to_string()),
            look => (0, words(look)),
        };
        let pa = block.pa.map_or(String::new(), |pa| format!("{pa:#x}"));
        writeln!(
            out,
            "[\"{:#x}\",\"{:#x}\",{size},\"{pa}\",\"{rights}\",\"{}\",\"{}\"],",
            block.start,
            block.last,
            colour(block.look),
            rights_colour(block.look),
        )?;
    }
    let (middle, rest) = rest.split_once("@BANDS@").unwrap_or((rest, ""));
    out.write_all(middle.as_bytes())?;
    for band in picture.bands() {
        writeln!(out, "[\"{:#018x}\",\"{:#018x}\"],", band.start, band.last)?;
    }
    out.write_all(rest.as_bytes())?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use table_dump::{Range, Rights};

    #[test]
    fn the_page_holds_its_data() {
        let mut picture = Picture::default();
        let range = Range::mapped(Some(0x1000), 0x5000, 4096, Rights::default(), String::new())
            .of_bytes(8192);
        picture.take(&range);
        let mut out = Vec::new();
        write(&picture, "</script>", &mut out).unwrap();
        let page = String::from_utf8(out).unwrap();
        assert!(
            page.contains(
                "[\"0x1000\",\"0x2fff\",4096,\"0x5000\",\"---/---\",\"#4c78a8\",\"#d8d8d8\"],"
            ) && page.contains("[\"0x0000000000001000\",\"0x0000000000002fff\"],"),
            "{page}"
        );
        assert!(["@DATA@", "@TITLE@", "@GRAIN@", "@BANDS@"].iter().all(|it| !page.contains(it)));
        assert_eq!(page.matches("</script>").count(), 1, "a title ends no script");
        assert!(!page.contains("http"), "nothing is loaded from elsewhere");
    }
}
