//! The provider's own API: which webhooks there are, and switching a suspended one on again.
//!
//! | | request | body |
//! | --- | --- | --- |
//! | register | `POST {api_url}/v2/webhooks` | `{"url": …, "events": […], "companyId": …}`; the answer holds `webhookId` |
//! | list | `GET {api_url}/v2/webhooks` | |
//! | re-activate | `PATCH {api_url}/v2/webhooks/{id}` | `{"status": "active"}` |
//! | subscribe | `PATCH {api_url}/v2/webhooks/{id}` | `{"events": […]}` |
//!
//! All with `Authorization: Bearer …`, at most 4 requests a second and 60 a minute ([`limiter`]). It comes from a third party's
//! description, which says nothing of how a list looks or an error: both are read leniently ([`webhook`], [`words`]).
//!
//! | answer | taken as |
//! | --- | --- |
//! | 2xx | done |
//! | 429 | wait for as long as `Retry-After` says (15 s without one), up to a minute, and try again, three times in all |
//! | 401, 403 | the token is wrong |
//! | 404, 405, 3xx | no such webhook, or `api_url` is wrong |
//! | other 4xx | refused, and no later try would do |
//! | 5xx, 408, no answer in `timeout`, no connection | the API is down. Nothing is tried again by itself: a POST may have been done |

pub mod api;
pub mod limiter;
pub mod webhook;
pub mod words;

pub use api::{Api, ApiError};
pub use webhook::{List, Webhook, WebhookId};
