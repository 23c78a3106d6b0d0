//! What the picture's signs look like, in light and in dark.

use crate::trace::Mark;

/// A sign at a replica's line.
pub(super) struct Glyph {
    /// What it stands for.
    pub(super) mark: Mark,
    /// Its name in the picture.
    pub(super) id: &'static str,
    /// What the legend says.
    pub(super) legend: &'static str,
    /// Its shape, around the point of the line that it belongs to.
    shape: &'static str,
    /// How far its middle is below that point.
    pub(super) middle: f64,
    /// How many of them are drawn at most.
    pub(super) count_max: usize,
}

/// All signs, those that are drawn over others last.
pub(super) const GLYPHS: [Glyph; 11] = [
    Glyph {
        mark: Mark::Applied,
        id: "applied",
        legend: "commits applied",
        shape: r#"<path d="M0 1V10" class="applied"/>"#,
        middle: 5.5,
        count_max: 1_000,
    },
    Glyph {
        mark: Mark::Connected,
        id: "connected",
        legend: "connected",
        shape: r#"<rect x="-2.5" y="9" width="5" height="5" class="connected"/>"#,
        middle: 11.5,
        count_max: 300,
    },
    Glyph {
        mark: Mark::Disconnected,
        id: "disconnected",
        legend: "disconnected",
        shape: r#"<rect x="-2" y="9.5" width="4" height="4" class="disconnected"/>"#,
        middle: 11.5,
        count_max: 300,
    },
    Glyph {
        mark: Mark::Read,
        id: "read",
        legend: "read and checked",
        shape: r#"<path d="M0 -10L3.5 -6.5L0 -3L-3.5 -6.5Z" class="read"/>"#,
        middle: -6.5,
        count_max: 500,
    },
    Glyph {
        mark: Mark::Write,
        id: "write",
        legend: "write",
        shape: r#"<circle r="3.2" class="write"/>"#,
        middle: 0.0,
        count_max: 800,
    },
    Glyph {
        mark: Mark::Refused,
        id: "refused",
        legend: "write refused or cut off",
        shape: r#"<circle r="3.6" class="refused"/><path d="M-2.5 2.5L2.5 -2.5" class="refused"/>"#,
        middle: 0.0,
        count_max: 300,
    },
    Glyph {
        mark: Mark::Pause,
        id: "pause",
        legend: "stands still or goes on",
        shape: r#"<path d="M-2 -5V5M2 -5V5" class="pause"/>"#,
        middle: 0.0,
        count_max: 400,
    },
    Glyph {
        mark: Mark::Up,
        id: "up",
        legend: "process comes up",
        shape: r#"<path d="M-4 -5.5L5 0L-4 5.5Z" class="up"/>"#,
        middle: 0.0,
        count_max: 400,
    },
    Glyph {
        mark: Mark::Down,
        id: "down",
        legend: "process ends",
        shape: r#"<path d="M-4.5 -4.5L4.5 4.5M-4.5 4.5L4.5 -4.5" class="down"/>"#,
        middle: 0.0,
        count_max: 400,
    },
    Glyph {
        mark: Mark::Fault,
        id: "fault",
        legend: "disk, clock or memory fails",
        shape: r#"<path d="M0 -13L5 -4H-5Z" class="fault"/>"#,
        middle: -8.5,
        count_max: 500,
    },
    Glyph {
        mark: Mark::Violation,
        id: "violation",
        legend: "a checker objects",
        shape: VIOLATION,
        middle: 0.0,
        count_max: 50,
    },
];

const VIOLATION: &str = r#"<path d="M0 -11L2.9 -3.9L10.5 -3.4L4.6 1.5L6.5 8.9L0 4.8L-6.5 8.9L-4.6 1.5L-10.5 -3.4L-2.9 -3.9Z" class="violation"/>"#;

/// The colours of both appearances, and the shapes.
pub(super) fn style_and_shapes() -> String {
    let mut text =
        format!("<style>{LIGHT}@media (prefers-color-scheme:dark){{{DARK}}}</style>\n<defs>");
    text.push_str(ARROW);
    for glyph in &GLYPHS {
        text.push_str(&format!(r#"<g id="{}">{}</g>"#, glyph.id, glyph.shape));
    }
    text.push_str("</defs>\n");
    text
}

const ARROW: &str = r#"<marker id="arrow" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 .8L6 3L0 5.2Z" class="head"/></marker>"#;

const LIGHT: &str = "\
text{font:11px ui-sans-serif,system-ui,'DejaVu Sans',sans-serif;fill:#24292f}\
.title{font-size:18px;font-weight:600}.soft{fill:#59636e}.bad{fill:#b3151d;font-weight:600}\
.good{fill:#1a6e2e;font-weight:600}.halo{stroke:#fff;stroke-width:4;paint-order:stroke;stroke-linejoin:round}.name{font-size:12px}\
.paper{fill:#fff}.stripe{fill:#818b98;opacity:.07}.hurt{fill:#d1242f;opacity:.09}\
.grid{stroke:#818b98;stroke-opacity:.22}.axis{stroke:#59636e}\
.alive{stroke:#59636e;stroke-width:1.6}.gone{stroke:#818b98;stroke-opacity:.9;stroke-dasharray:2 5}\
.still{stroke:#b8bec6;stroke-width:7;stroke-opacity:.75}\
.m{stroke:#4b77b5;stroke-opacity:.42;marker-end:url(#arrow)}.head{fill:#4b77b5;fill-opacity:.75}\
.l{stroke:#d1242f;stroke-opacity:.6;stroke-dasharray:3 2;fill:none}\
.m:hover,.l:hover{stroke-opacity:1;stroke-width:2.5}\
.shade{fill:#e0662b}.cut{fill:#e0662b;fill-opacity:.45}.slow{fill:#c99a1a;fill-opacity:.4}\
.world{stroke:#6e5bb8;stroke-opacity:.6;stroke-dasharray:5 4}\
.heal{stroke:#1f883d;stroke-width:2}.fatal{stroke:#d1242f;stroke-width:2}\
.write{fill:#0b62d0;stroke:#fff;stroke-width:.6}.refused{fill:#fff;stroke:#c2410c;stroke-width:1.5}\
.applied{stroke:#0f8a8a;stroke-width:1.6;stroke-opacity:.85}.read{fill:#fff;stroke:#8250df;stroke-width:1.3}\
.fault{fill:#f0a30a;stroke:#7a4b00;stroke-width:.8}.pause{stroke:#59636e;stroke-width:2}\
.up{fill:#1f883d;stroke:#fff;stroke-width:.6}.down{stroke:#b3151d;stroke-width:2.4;stroke-linecap:round}\
.connected{fill:#1f883d;fill-opacity:.8}.disconnected{fill:none;stroke:#b3151d;stroke-opacity:.8}\
.violation{fill:#d1242f;stroke:#fff;stroke-width:1}";

const DARK: &str = "\
text{fill:#e6edf3}.soft{fill:#9da7b3}.bad{fill:#ff7b72}.good{fill:#56d364}\
.paper{fill:#0d1117}.hurt{fill:#f85149;opacity:.16}.axis,.alive,.pause{stroke:#9da7b3}\
.gone{stroke:#7d8590}.still{stroke:#6e7681}.halo{stroke:#0d1117}\
.m{stroke:#79a9e8}.head{fill:#79a9e8}.l{stroke:#ff7b72}\
.world{stroke:#b7a5f5}.heal{stroke:#3fb950}.fatal{stroke:#f85149}\
.write{fill:#58a6ff;stroke:#0d1117}.refused{fill:#0d1117;stroke:#ff9a5c}.applied{stroke:#4fd1d1}\
.read{fill:#0d1117;stroke:#c297ff}.fault{fill:#e3b341;stroke:#0d1117}.up{fill:#3fb950;stroke:#0d1117}\
.down{stroke:#ff7b72}.connected{fill:#3fb950}.disconnected{stroke:#ff7b72}\
.violation{fill:#f85149;stroke:#0d1117}";
