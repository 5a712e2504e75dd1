// The program that sends a request: Python, curl and Node, with the official clients. Keys are read from the environment.

const OPERATIONS = {
  "chat/completions": "chat.completions.create",
  responses: "responses.create",
  completions: "completions.create",
  embeddings: "embeddings.create",
};

/** The part of a path after /v1/ or /console/api/. */
export const operationOf = (path) => path.replace(/^\/v1\/|^\/console\/api\//, "");

export const baseUrl = () => `${location.origin}/v1`;

function python(value, indent = 0) {
  const pad = "    ".repeat(indent + 1);
  const end = "    ".repeat(indent);
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "string") return pythonText(value);
  if (typeof value !== "object") return String(value);
  if (Array.isArray(value)) {
    const flat = `[${value.map((each) => python(each)).join(", ")}]`;
    if (flat.length <= 60 && !flat.includes("\n") && value.every((each) => typeof each !== "object")) return flat;
    return value.length ? `[\n${value.map((each) => `${pad}${python(each, indent + 1)},\n`).join("")}${end}]` : "[]";
  }
  const pairs = Object.entries(value);
  if (pairs.length === 0) return "{}";
  const flat = `{${pairs.map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`).join(", ")}}`;
  if (flat.length <= 88 && !flat.includes("\n")) return flat;
  return `{\n${pairs.map(([name, each]) => `${pad}${JSON.stringify(name)}: ${python(each, indent + 1)},\n`).join("")}${end}}`;
}

/** JSON strings are Python strings, but for escapes of surrogate pairs, which stay as characters. */
const pythonText = (text) => JSON.stringify(text);

function asPython(operation, body) {
  const lines = Object.entries(body).map(([name, value]) => `    ${name}=${python(value, 1)},`);
  const head = `from openai import OpenAI\n\n# The key is read from OPENAI_API_KEY.\nclient = OpenAI(base_url="${baseUrl()}")\n`;
  const call = `client.${OPERATIONS[operation]}(\n${lines.join("\n")}\n)`;
  if (!body.stream) return `${head}answer = ${call}\nprint(${PRINTED[operation] ?? "answer"})\n`;
  const piece = operation === "responses" ? "event" : "chunk";
  return `${head}for ${piece} in ${call}:\n    ${STREAMED[operation] ?? `print(${piece})`}\n`;
}

const PRINTED = {
  "chat/completions": "answer.choices[0].message",
  responses: "answer.output_text",
  completions: "answer.choices[0].text",
};
const STREAMED = {
  "chat/completions": 'if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="", flush=True)',
  responses: 'if event.type == "response.output_text.delta":\n        print(event.delta, end="", flush=True)',
};

function asCurl(operation, body) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl ${body.stream ? "-N " : ""}${baseUrl()}/${operation} \\\n  -H "Authorization: Bearer $OPENAI_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d '${json}'\n`;
}

function asNode(operation, body) {
  const json = JSON.stringify(body, null, 2).replace(/^(\s*)"([A-Za-z_]\w*)":/gm, "$1$2:");
  const head = `import OpenAI from "openai";\n\n// The key is read from OPENAI_API_KEY.\nconst client = new OpenAI({ baseURL: "${baseUrl()}" });\n`;
  const call = `await client.${OPERATIONS[operation]}(${json});\n`;
  if (!body.stream) return `${head}const answer = ${call}console.log(${PRINTED[operation] ?? "answer"});\n`;
  const shown =
    operation === "responses"
      ? 'if (event.type === "response.output_text.delta") process.stdout.write(event.delta);'
      : 'process.stdout.write(event.choices[0]?.delta?.content ?? "");';
  return `${head}const stream = ${call}for await (const event of stream) {\n  ${shown}\n}\n`;
}

export const LANGUAGES = { python: "Python", curl: "curl", node: "Node" };
const WRITERS = { python: asPython, curl: asCurl, node: asNode };

/** Returns the program that sends `body` to `path`. */
export function program(language, path, body) {
  return WRITERS[language](operationOf(path), body);
}
