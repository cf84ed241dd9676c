//! Sample events: one of each of the six types, as MindTickle's are described.

use serde_json::{Value, json};

/// The six event types, in the order in which samples are made.
pub const TYPES: [&str; 6] =
    ["course.completed", "quiz.submitted", "user.provisioned", "user.deprovisioned", "module.progress", "certification.expired"];

/// Sample number `i` of a type; `None` for a type that is not one of the six. Users go round in a circle of 200.
pub fn sample(event_type: &str, company: &str, i: u64) -> Option<Value> {
    let user = format!("u-{}", i % 200);
    let data = match event_type {
        "course.completed" => {
            json!({ "userId": user, "courseName": "Discovery Calls", "courseId": format!("c-{}", i % 40), "score": 60 + i % 40, "completedAt": "2026-11-20T10:00:00Z" })
        }
        "quiz.submitted" => {
            json!({ "userId": user, "quizName": "Objection Handling", "quizId": format!("q-{}", i % 30), "score": i % 21, "maxScore": 20, "passed": i % 21 > 13 })
        }
        "user.provisioned" => {
            json!({ "userId": user, "email": format!("{user}@example.com"), "role": "learner", "teamId": "t-7", "provisionedBy": "scim" })
        }
        "user.deprovisioned" => {
            json!({ "userId": user, "email": format!("{user}@example.com"), "reason": "left", "deprovisionedAt": "2026-11-20T10:00:00Z" })
        }
        "module.progress" => {
            json!({ "userId": user, "moduleName": "Pricing", "moduleId": format!("m-{}", i % 50), "progressPct": i % 101, "timeSpentSec": 60 + i % 3600 })
        }
        "certification.expired" => {
            json!({ "userId": user, "certName": "MEDDIC", "expiredAt": "2026-11-20T10:00:00Z", "renewalDeadline": "2026-12-20T10:00:00Z" })
        }
        _ => return None,
    };
    Some(json!({ "event": event_type, "companyId": company, "data": data }))
}
