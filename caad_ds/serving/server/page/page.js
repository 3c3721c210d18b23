"use strict";
// Asks the models of this server by its own interface. What comes from a model is put in as text, never as HTML.

const at = (id) => document.getElementById(id);
const clips = []; // {name, bytes, url, said}
let models = [];
let recorder = null;
let asking = null; // the AbortController of the questions under way

// -- the server ---------------------------------------------------------------------------------------------------

function headers() {
  const key = at("key").value.trim();
  return {"Content-Type": "application/json", ...(key ? {Authorization: `Bearer ${key}`} : {})};
}

async function fault(answer) {
  const body = await answer.json().catch(() => null);
  return new Error((body && body.error && body.error.message) || `the server answers ${answer.status}`);
}

async function findModels() {
  const answer = await fetch("v1/models", {headers: headers()});
  if (answer.status === 401) {
    at("key-row").hidden = false;
    at("served").textContent = "This server asks for its API key.";
    return;
  }
  if (!answer.ok) throw await fault(answer);
  models = (await answer.json()).data;
  const longest = Math.min(...models.map((model) => model.caad.longest_seconds));
  const names = models.map((model) => model.id).join(" and ");
  at("served").textContent = `${names}: clips of up to ${Number(longest.toFixed(2))} s`;
  showClips();
}

async function* pieces(body) {
  // The events of a stream; one may arrive in several parts.
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) throw new Error("the answer broke off");
    held += value;
    const lines = held.split("\n\n");
    held = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice("data: ".length));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

function request(model, alpha) {
  const content = clips.map((clip) => ({type: "input_audio", input_audio: {data: base64(clip.bytes)}}));
  content.push({type: "text", text: at("question").value});
  const asked = {model: model.id, messages: [{role: "user", content}], stream: true};
  const temperature = Number(at("temperature").value);
  if (temperature > 0) asked.temperature = temperature;
  if (at("tokens").value) asked.max_tokens = Number(at("tokens").value);
  if (alpha !== null) asked.caad_alpha = alpha;
  const said = clips.map((clip) => clip.said);
  if (model.caad.transcripts && said.some((text) => text)) asked.caad_transcripts = said;
  asked.stream_options = {include_usage: true};
  return asked;
}

// -- answers ------------------------------------------------------------------------------------------------------

function card(title, how) {
  const made = document.createElement("article");
  made.className = "answer";
  const parts = {};
  for (const [tag, name, text] of [["h2", "title", title], ["p", "how", how], ["p", "text", ""], ["p", "doubt", ""], ["p", "time", "waiting"]]) {
    parts[name] = document.createElement(tag);
    parts[name].className = name;
    parts[name].textContent = text;
    made.append(parts[name]);
  }
  at("answers").append(made);
  return parts;
}

async function answer(shown, asked, signal) {
  const began = performance.now();
  const seconds = () => ((performance.now() - began) / 1000).toFixed(2);
  shown.time.textContent = "answering";
  try {
    const got = await fetch("v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(asked), signal,
    });
    if (!got.ok) throw await fault(got);
    let first = null;
    let tokens = "";
    for await (const event of pieces(got.body)) {
      if (event.caad) shown.doubt.textContent = event.caad.warnings.join("\n");
      const [choice] = event.choices;
      if (event.usage) tokens = `, ${event.usage.completion_tokens} tokens`;
      if (!choice || !choice.delta.content) continue;
      first = first || seconds();
      shown.text.textContent += choice.delta.content;
    }
    if (!shown.text.textContent) shown.text.textContent = "(an empty answer)";
    shown.time.textContent = `${seconds()} s${tokens}${first ? `; first text after ${first} s` : ""}`;
  } catch (error) {
    shown.time.textContent = signal.aborted ? `stopped after ${seconds()} s` : `no answer after ${seconds()} s`;
    if (signal.aborted) throw error;
    const message = document.createElement("span");
    message.className = "fault";
    message.textContent = error.message;
    shown.text.append(shown.text.textContent ? "\n" : "", message);
  }
}

async function ask() {
  if (!models.length) await findModels();
  if (!models.length) return;
  const alpha = at("alpha").value === "" ? null : Number(at("alpha").value);
  const wanted = [[models[0], null]];
  if (alpha !== null && clips.length) wanted.push([models[0], alpha]);
  wanted.push(...models.slice(1).map((model) => [model, null]));
  at("answers").replaceChildren();
  const shown = wanted.map(([model, strength]) =>
    card(model.id, strength === null ? "without contrast" : `with contrast, α = ${strength}`));
  asking = new AbortController();
  busy(true);
  try {
    // One after another: together they would share the device, and their times would say little.
    for (const [place, [model, strength]] of wanted.entries()) {
      await answer(shown[place], request(model, strength), asking.signal);
    }
  } finally {
    busy(false);
  }
}

function busy(is) {
  at("ask").disabled = is;
  at("stop").hidden = !is;
}

// -- audio --------------------------------------------------------------------------------------------------------

function base64(bytes) {
  let text = "";
  for (let first = 0; first < bytes.length; first += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(first, first + 0x8000));
  }
  return btoa(text);
}

async function add(name, blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  clips.push({name, bytes, url: URL.createObjectURL(blob), said: ""});
  showClips();
}

function showClips() {
  const takesText = models.some((model) => model.caad.transcripts);
  at("clips").replaceChildren(...clips.map((clip, place) => {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = clip.name;
    const player = document.createElement("audio");
    player.controls = true;
    player.src = clip.url;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove ${clip.name}`);
    remove.onclick = () => {
      URL.revokeObjectURL(clip.url);
      clips.splice(place, 1);
      showClips();
    };
    item.append(player, name);
    if (takesText) {
      const said = document.createElement("input");
      said.value = clip.said;
      said.placeholder = "what is said, if known";
      said.setAttribute("aria-label", `What is said in ${clip.name}`);
      said.oninput = () => { clip.said = said.value; };
      item.append(said);
    }
    item.append(remove);
    return item;
  }));
  at("hint").hidden = clips.length > 0;
}

function wav(samples, rate) {
  // 16-bit PCM in one channel, which the server reads without further packages.
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const letters = (place, text) => [...text].forEach((letter, n) => view.setUint8(place + n, letter.charCodeAt(0)));
  letters(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  letters(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, n) => view.setInt16(44 + 2 * n, Math.max(-1, Math.min(1, value)) * 0x7fff, true));
  return new Blob([view], {type: "audio/wav"});
}

async function mono(blob) {
  const context = new AudioContext({sampleRate: 16000});
  try {
    const decoded = await context.decodeAudioData(await blob.arrayBuffer());
    const sum = new Float32Array(decoded.length);
    for (let channel = 0; channel < decoded.numberOfChannels; channel += 1) {
      decoded.getChannelData(channel).forEach((value, n) => { sum[n] += value / decoded.numberOfChannels; });
    }
    const longest = Math.min(...models.map((model) => model.caad.longest_seconds), Infinity);
    return wav(sum.subarray(0, Math.min(sum.length, Math.floor(longest * decoded.sampleRate))), decoded.sampleRate);
  } finally {
    await context.close();
  }
}

async function record() {
  if (recorder) {
    recorder.stop();
    return;
  }
  at("record").disabled = true; // until it is known whether there is a microphone
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({audio: true});
  } finally {
    at("record").disabled = false;
  }
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    const kind = recorder.mimeType;
    recorder = null;
    recording(false);
    guarded(async () => add(`recording ${clips.length + 1}`, await mono(new Blob(parts, {type: kind}))))();
  };
  recorder.start();
  recording(true);
  const longest = Math.min(...models.map((model) => model.caad.longest_seconds), 600);
  const own = recorder;
  setTimeout(() => { if (recorder === own) own.stop(); }, 1000 * longest);
}

function recording(is) {
  at("record").textContent = is ? "Stop recording" : "Record";
  at("record").setAttribute("aria-pressed", String(is));
}

// -- events -------------------------------------------------------------------------------------------------------

function guarded(work) {
  return async (...given) => {
    at("status").className = "";
    at("status").textContent = "";
    try {
      await work(...given);
    } catch (error) {
      if (error.name === "AbortError") return;
      at("status").className = "fault";
      at("status").textContent = error.message;
    }
  };
}

const addAll = guarded(async (files) => { for (const file of files) await add(file.name, file); });

at("form").onsubmit = (event) => { event.preventDefault(); guarded(ask)(); };
at("question").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
};
at("stop").onclick = () => asking.abort();
at("record").onclick = guarded(record);
at("record").hidden = !(navigator.mediaDevices && window.MediaRecorder); // there is none where the page is no secure context
at("files").onchange = async () => { await addAll([...at("files").files]); at("files").value = ""; };
at("key").onchange = guarded(findModels);
at("form").ondragover = (event) => { event.preventDefault(); at("form").classList.add("over"); };
at("form").ondragleave = () => at("form").classList.remove("over");
at("form").ondrop = (event) => {
  event.preventDefault();
  at("form").classList.remove("over");
  addAll([...event.dataTransfer.files]);
};
guarded(findModels)();
