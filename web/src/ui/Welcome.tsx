/** What an empty chat shows: a word of welcome and some questions to begin with. */

import type { ReactNode } from "react";

const QUESTIONS = [
  "Explain how Server-Sent Events resume after a lost connection",
  "Write a Python function that merges overlapping intervals",
  "Compare Postgres and Valkey in a table",
  "What is AI?",
];

export function Welcome({ onAsk, ready }: { onAsk: (question: string) => void; ready: boolean }): ReactNode {
  return (
    <section className="welcome">
      <img src="/favicon.svg" alt="" />
      <div>
        <h2>What shall we talk about?</h2>
        <p>Close the page whenever you like: a reply goes on without it, and is here when you come back.</p>
      </div>
      <ul>
        {QUESTIONS.map((question) => (
          <li key={question}>
            <button type="button" onClick={() => onAsk(question)} aria-disabled={!ready}>
              {question}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
