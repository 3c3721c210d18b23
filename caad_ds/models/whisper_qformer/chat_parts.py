"""A chat template prefix that converts contents of text and audio parts to one text with marked audio."""


def with_audio_parts(template: str, before: str, mark: str, after: str, transcripts: bool) -> str:
    """Return a chat template that accepts contents of parts, and passes them to `template` as texts.

    An audio becomes `before`, `mark`, its transcription (`text` of its part) with `transcripts`, `after` and a line
    break; texts of one turn are joined by line breaks. As in training, all audio of a turn precedes its text: another
    order, or audio in a turn that is not the user's, raises an exception of the template. A template that has this
    prefix already is returned unchanged.
    """
    heard = "(part['text'] or '')" if transcripts else "''"
    head = (
        "{%- set heard = namespace(messages=[]) -%}\n"
        "{%- for message in messages -%}\n"
        "{%- if message['content'] is string -%}\n"
        "{%- set heard.messages = heard.messages + [message] -%}\n"
        "{%- else -%}\n"
        "{%- set written = namespace(text='', said=false) -%}\n"
        "{%- for part in message['content'] -%}\n"
        "{%- if part['type'] == 'text' -%}\n"
        "{%- set written.text = written.text + ('\\n' if written.said else '') + part['text'] -%}\n"
        "{%- set written.said = true -%}\n"
        "{%- elif part['type'] == 'audio' and message['role'] != 'user' -%}\n"
        "{{- raise_exception('audio in a message of the ' + message['role'] + '; put it into one of the user') -}}\n"
        "{%- elif part['type'] == 'audio' and written.said -%}\n"
        "{{- raise_exception('audio after a text of its message; put all audio before the text') -}}\n"
        "{%- elif part['type'] == 'audio' -%}\n"
        f"{{%- set written.text = written.text + '{before}{mark}' + {heard} + '{after}\\n' -%}}\n"
        "{%- else -%}\n"
        "{{- raise_exception('a content has parts of text and audio alone') -}}\n"
        "{%- endif -%}\n"
        "{%- endfor -%}\n"
        "{%- set heard.messages = heard.messages + [dict(message, content=written.text)] -%}\n"
        "{%- endif -%}\n"
        "{%- endfor -%}\n"
        "{%- set messages = heard.messages %}\n"
    )
    return template if template.startswith(head) else head + template
