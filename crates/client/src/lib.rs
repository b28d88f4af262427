//! The reporter API's client: reconnects, resumes, coalesces.
