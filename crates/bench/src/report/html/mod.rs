//! The report that people look at: `report.html`, one page without anything from elsewhere.

/// Name of the file in the folder of a run.
pub const FILE: &str = "report.html";
