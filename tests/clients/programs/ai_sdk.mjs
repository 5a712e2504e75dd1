// The Vercel AI SDK with its default provider, which calls Responses: text, a streamed tool loop, an object.
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL });
const model = openai("gpt-4o-mini");
console.log("text:", (await generateText({ model, prompt: "hello there" })).text);
const streamed = streamText({
  model,
  prompt: "the weather in Oslo?",
  stopWhen: stepCountIs(3),
  tools: {
    get_weather: tool({
      description: "Return the weather of a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => `12 degrees in ${city}`,
    }),
  },
});
let text = "";
for await (const delta of streamed.textStream) text += delta;
console.log("stream:", text);
const schema = z.object({ city: z.string(), degrees: z.number() });
console.log("object:", JSON.stringify((await generateObject({ model, schema, prompt: "as an object" })).object));
