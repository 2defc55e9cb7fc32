//! Header formats, access logs and local replies from their messages.

use std::path::Path;
use std::sync::Arc;

use prost_types::value::Kind;
use xds::envoy::config::accesslog::v3::AccessLog as Message;
use xds::envoy::config::accesslog::v3::access_log::ConfigType;
use xds::envoy::config::core::v3::SubstitutionFormatString;
use xds::envoy::config::core::v3::substitution_format_string::Format as FormatKind;
use xds::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use xds::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat as FileFormat;
use xds::envoy::extensions::access_loggers::stream::v3::stderr_access_log::AccessLogFormat as StderrFormat;
use xds::envoy::extensions::access_loggers::stream::v3::stdout_access_log::AccessLogFormat as StdoutFormat;
use xds::envoy::extensions::access_loggers::stream::v3::{StderrAccessLog, StdoutAccessLog};
use xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, ResponseMapper,
};

use super::place::{Code, Extension, Place};
use super::{Cx, log_filter, values};
use crate::access_log::{AccessLog, LogFormat, LogWriter, Sink};
use crate::format::{Format, JsonFormat, Problem};
use crate::headers::Changes;
use crate::local_reply::{BodyFormat, Mapper, Mappers};

/// The access logs of a connection manager or `tcp_proxy`.
pub(super) fn access_logs(cx: &mut Cx<'_>, place: &Place<'_>, messages: &[Message]) -> Vec<Arc<AccessLog>> {
    let each = messages.iter().enumerate();
    each.filter_map(|(at, message)| access_log(cx, &place.item("access_log", at), message))
        .map(Arc::new)
        .collect()
}

fn access_log(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Option<AccessLog> {
    let filter = message.filter.as_ref();
    let filter = filter.and_then(|filter| log_filter::filter(cx, &place.field("filter"), filter));
    let Some(ConfigType::TypedConfig(any)) = &message.config_type else {
        cx.error(place, Code::MissingField, "an access log needs `typed_config`");
        return None;
    };
    let (log, place) = (place, place.field("typed_config"));
    let (format, sink) = if let Ok(file) = xds::decode_any::<FileAccessLog>(any) {
        (file_format(cx, &place, file.access_log_format.as_ref()), file_sink(cx, &place, &file.path))
    } else if let Ok(log) = xds::decode_any::<StdoutAccessLog>(any) {
        let format = log.access_log_format.map(|StdoutFormat::LogFormat(format)| format);
        (log_format(cx, &place, format.as_ref()), cx.logs.map(LogWriter::stdout))
    } else if let Ok(log) = xds::decode_any::<StderrAccessLog>(any) {
        let format = log.access_log_format.map(|StderrFormat::LogFormat(format)| format);
        (log_format(cx, &place, format.as_ref()), cx.logs.map(LogWriter::stderr))
    } else {
        cx.findings
            .no_extension(log, Extension::ACCESS_LOG, &message.name, Some(any))
            .suggest("use a file, stdout or stderr");
        return None;
    };
    Some(AccessLog::new(filter, format?, sink?))
}

/// The file's sink; without a writer (validation) nothing is opened.
fn file_sink(cx: &mut Cx<'_>, place: &Place<'_>, path: &str) -> Option<Sink> {
    let writer = cx.logs?;
    match (path, writer.open(Path::new(path))) {
        ("/dev/stdout", _) => Some(writer.stdout()),
        ("/dev/stderr", _) => Some(writer.stderr()),
        (_, Ok(sink)) => Some(sink),
        (_, Err(error)) => {
            cx.error(&place.field("path"), Code::BadValue, error.to_string());
            None
        }
    }
}

fn file_format(cx: &mut Cx<'_>, place: &Place<'_>, format: Option<&FileFormat>) -> Option<LogFormat> {
    match format {
        None => Some(LogFormat::default()),
        Some(FileFormat::Format(text)) => {
            parsed(cx, &place.field("format"), Format::parse(text)).map(LogFormat::Text)
        }
        Some(FileFormat::JsonFormat(fields)) => json(cx, &place.field("json_format"), fields, false),
        Some(FileFormat::TypedJsonFormat(fields)) => {
            json(cx, &place.field("typed_json_format"), fields, false)
        }
        Some(FileFormat::LogFormat(format)) => substitution(cx, &place.field("log_format"), format),
    }
}

fn log_format(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    format: Option<&SubstitutionFormatString>,
) -> Option<LogFormat> {
    match format {
        None => Some(LogFormat::default()),
        Some(format) => substitution(cx, &place.field("log_format"), format),
    }
}

fn substitution(cx: &mut Cx<'_>, place: &Place<'_>, message: &SubstitutionFormatString) -> Option<LogFormat> {
    let omit = message.omit_empty_values;
    let text = |format: Format| LogFormat::Text(if omit { format.omit_empty() } else { format });
    match message.format.as_ref()? {
        FormatKind::TextFormat(format) => {
            parsed(cx, &place.field("text_format"), Format::parse(format)).map(text)
        }
        FormatKind::JsonFormat(fields) => json(cx, &place.field("json_format"), fields, omit),
        FormatKind::TextFormatSource(source) => {
            let place = place.field("text_format_source");
            let bytes = values::data(cx, &place, source);
            parsed(cx, &place, Format::parse(&String::from_utf8_lossy(&bytes))).map(text)
        }
    }
}

fn json(cx: &mut Cx<'_>, place: &Place<'_>, fields: &prost_types::Struct, omit: bool) -> Option<LogFormat> {
    parsed(cx, place, JsonFormat::parse(&object(fields), omit)).map(LogFormat::Json)
}

pub(super) fn object(fields: &prost_types::Struct) -> serde_json::Value {
    fields.fields.iter().map(|(name, value)| (name.clone(), json_value(value))).collect()
}

fn json_value(value: &prost_types::Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::NumberValue(value)) => (*value).into(),
        Some(Kind::StringValue(value)) => value.as_str().into(),
        Some(Kind::StructValue(fields)) => object(fields),
        Some(Kind::ListValue(list)) => list.values.iter().map(json_value).collect(),
    }
}

fn parsed<T>(cx: &mut Cx<'_>, place: &Place<'_>, result: Result<T, Problem>) -> Option<T> {
    result.map_err(|problem| cx.no_format(place, problem)).ok()
}

/// What local replies look like.
pub(super) fn local_reply(cx: &mut Cx<'_>, place: &Place<'_>, message: Option<&LocalReplyConfig>) -> Mappers {
    let Some(message) = message else { return Mappers::default() };
    let body_format = message.body_format.as_ref();
    let body_format =
        body_format.and_then(|format| self::body_format(cx, &place.field("body_format"), format));
    let each = message.mappers.iter().enumerate();
    let mappers = each.filter_map(|(at, message)| mapper(cx, &place.item("mappers", at), message)).collect();
    Mappers { mappers, body_format }
}

fn mapper(cx: &mut Cx<'_>, place: &Place<'_>, message: &ResponseMapper) -> Option<Mapper> {
    let filter = log_filter::filter(cx, &place.field("filter"), message.filter.as_ref()?)?;
    let body = message.body.as_ref().map(|body| values::data(cx, &place.field("body"), body).into());
    let format = message.body_format_override.as_ref();
    Some(Mapper {
        filter,
        status: message.status_code.and_then(|status| u16::try_from(status).ok()),
        body,
        body_format: format.and_then(|format| body_format(cx, &place.field("body_format_override"), format)),
        headers_to_add: Changes {
            add: values::additions(cx, place, "headers_to_add", &message.headers_to_add),
            remove: Vec::new(),
        },
    })
}

fn body_format(cx: &mut Cx<'_>, place: &Place<'_>, message: &SubstitutionFormatString) -> Option<BodyFormat> {
    let content_type = (!message.content_type.is_empty())
        .then(|| values::header_value(cx, &place.field("content_type"), &message.content_type));
    Some(BodyFormat { format: substitution(cx, place, message)?, content_type })
}
