//! How the page looks: light and dark, on a screen of any width and on paper; and the script that sorts tables.

/// The style sheet.
pub(super) const CSS: &str = r"
:root { color-scheme: light dark; --page: #ffffff; --card: #f5f6f8; --text: #1b1f24; --faint: #5b6570; --rule: #d9dde2;
  --good: #1a7f37; --open: #9a5b00; --right: #2563a8; --wrong: #c2410c; --on: #ffffff;
  --c0: #2563a8; --c1: #c2410c; --c2: #15803d; --c3: #7e3fb0; --c4: #a16207; --c5: #be185d; --c6: #0f766e; --c7: #57534e; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1e2226; --text: #e6e9ec; --faint: #a3adb7; --rule: #394047;
  --good: #56c271; --open: #e0a84b; --right: #6cacf0; --wrong: #f08a55; --on: #14171a;
  --c0: #6cacf0; --c1: #f08a55; --c2: #5fc983; --c3: #c197ec; --c4: #dcb24a; --c5: #f27fb2; --c6: #4fc7ba; --c7: #b5aea8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; } h2 { font-size: 1.35rem; margin: 2.5rem 0 0.5rem; border-bottom: 2px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 2rem 0 0.25rem; } h4 { font-size: 0.95rem; margin: 1rem 0 0.4rem; }
p { margin: 0.4rem 0; max-width: 46rem; } .about, .faint, .note, figcaption, caption { color: var(--faint); font-size: 0.875rem; }
.note { border-left: 3px solid var(--rule); padding-left: 0.6rem; }
a { color: var(--c0); } nav ul { list-style: none; padding: 0; margin: 0.3rem 0; display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 0.6rem; margin: 0.8rem 0; }
.tiles div { background: var(--card); border-radius: 0.4rem; padding: 0.5rem 0.7rem; }
.tiles dt { color: var(--faint); font-size: 0.8rem; } .tiles dd { margin: 0; font-size: 1.2rem; font-weight: 600; }
.wide { overflow-x: auto; margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; padding: 0.2rem 0; } th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--rule); text-align: right; }
th:first-child, td:first-child { text-align: left; } tbody th { font-weight: 600; } thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
thead th, tbody td { white-space: nowrap; } tbody th { min-width: 6rem; max-width: 13rem; overflow-wrap: break-word; } details table td { white-space: normal; overflow-wrap: anywhere; } details table th { text-align: left; }
.sortable th { cursor: pointer; }
.state.good { color: var(--good); } .state.open { color: var(--open); font-weight: 600; }
details { margin: 0.4rem 0; } summary { cursor: pointer; color: var(--c0); }
pre { background: var(--card); padding: 0.6rem; overflow-x: auto; font-size: 0.8rem; overflow-wrap: normal; }
figure { margin: 0.6rem 0; } figure svg { width: 100%; height: auto; max-width: 40rem; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 1.5rem; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; } svg text.axis { fill: var(--faint); }
.matrix { width: 100%; height: auto; } .matrix text[font-size='9'] { font-size: 9px; } .matrix text[font-size='10'] { font-size: 10px; } .matrix text[font-size='11'] { font-size: 11px; }
.rule { stroke: var(--rule); fill: none; } .part { stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .dashed { stroke-dasharray: 5 4; } .dot { stroke: transparent; stroke-width: 8; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); } .line.c3 { stroke: var(--c3); }
.line.c4 { stroke: var(--c4); } .line.c5 { stroke: var(--c5); } .line.c6 { stroke: var(--c6); } .line.c7 { stroke: var(--c7); }
.dot.c0, .bar.c0 { fill: var(--c0); } .dot.c1, .bar.c1 { fill: var(--c1); } .dot.c2, .bar.c2 { fill: var(--c2); } .dot.c3, .bar.c3 { fill: var(--c3); }
.dot.c4, .bar.c4 { fill: var(--c4); } .dot.c5, .bar.c5 { fill: var(--c5); } .dot.c6, .bar.c6 { fill: var(--c6); } .dot.c7, .bar.c7 { fill: var(--c7); }
.legend { display: block; } .legend span { margin-right: 1rem; white-space: nowrap; }
figure svg.key { width: 1.5rem; height: 0.5rem; display: inline-block; margin-right: 0.3rem; }
.spark { width: 6.5rem; height: 1.6rem; display: block; margin-left: auto; }
.cell.right { fill: var(--right); } .cell.wrong { fill: var(--wrong); } .frame { fill: none; stroke: var(--rule); } svg text.count.strong { fill: var(--on); }
.cards { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 0.8rem; }
@media (max-width: 40rem) { .cards { grid-template-columns: repeat(3, minmax(0, 1fr)); } } .card { margin: 0; }
.card img { width: 100%; max-width: 8rem; height: auto; border-radius: 0.25rem; display: block; image-rendering: pixelated; }
.card img[width='96'] { image-rendering: auto; }
.maps { display: grid; grid-template-columns: repeat(3, minmax(0, 14rem)); gap: 0.8rem; } .maps img { width: 100%; max-width: none; height: auto; display: block; image-rendering: pixelated; background: #000; }
.maps .card img { background: none; }
footer { margin-top: 3rem; color: var(--faint); font-size: 0.8rem; }
@media print { :root { --page: #fff; --card: #fff; --text: #000; --faint: #444; --rule: #bbb; --good: #000; --open: #000; --right: #2563a8; --wrong: #c2410c; --on: #fff;
    --c0: #2563a8; --c1: #c2410c; --c2: #15803d; --c3: #7e3fb0; --c4: #a16207; --c5: #be185d; --c6: #0f766e; --c7: #57534e; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav, .sortable th::after { display: none; } .wide { overflow: visible; } table { font-size: 8pt; }
  th, td { padding: 0.15rem 0.3rem; } thead th, tbody td { white-space: normal; } h2, h3, h4 { break-after: avoid; } figure, tr, .card, .tiles { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
";

/// Sorts a table by the column whose heading is clicked, by numbers where there are some. The page is whole without it.
/// It has no character that would have to be escaped.
pub(super) const SCRIPT: &str = r"
for (const table of document.querySelectorAll('table')) {
  table.classList.add('sortable');
  const units = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, KiB: 1024, MiB: 1048576, GiB: 1073741824, TiB: 1099511627776, min: 60, h: 3600 };
  const value = (cell) => {
    const found = /^(-?[0-9.]+(?:e-?[0-9]+)?)(?: ([a-zA-Z]+))?/.exec(cell.textContent);
    return found ? found[1] * (units[found[2]] || 1) : cell.textContent;
  };
  const order = (a, b) => typeof a === typeof b ? (typeof a === 'number' ? a - b : a.localeCompare(b)) : typeof a === 'number' ? -1 : 1;
  table.querySelectorAll('thead th').forEach((heading, column) => {
    let turn = 1;
    heading.addEventListener('click', () => {
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => turn * order(value(a.cells[column]), value(b.cells[column])));
      turn = -turn;
      body.append(...rows);
    });
  });
}
";

#[cfg(test)]
mod tests {
    use super::{CSS, SCRIPT};

    #[test]
    fn style_and_script_can_stand_in_the_page_as_they_are() {
        for text in [CSS, SCRIPT] {
            assert!(!text.contains("</") && !text.contains('&') && !text.contains('<'), "{text}");
            assert!(!text.contains("url(") && !text.contains("import"), "they bring nothing from elsewhere");
        }
    }
}
