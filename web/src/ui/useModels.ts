/** The models on offer, and which one a chat uses: remembered for each chat, and for the next new one. */

import { useCallback, useEffect, useState } from "react";
import type { ParleyClient } from "../chat/client";
import type { OfferedModel } from "../chat/wire";
import { recall, remember } from "./memory";

export interface Models {
  models: readonly OfferedModel[] | null;
  failed: boolean;
  reload: () => void;
}

export function useModels(client: ParleyClient): Models {
  const [models, setModels] = useState<readonly OfferedModel[] | null>(null);
  const [failed, setFailed] = useState(false);
  const [tries, setTries] = useState(0);

  useEffect(() => {
    const controller = new AbortController();
    client.models(controller.signal).then(
      (offered) => {
        setModels(offered);
        setFailed(false);
      },
      () => !controller.signal.aborted && setFailed(true),
    );
    return () => controller.abort();
  }, [client, tries]);

  const reload = useCallback(() => setTries((count) => count + 1), []);
  return { models, failed, reload };
}

const keyOf = (chatId: string | null): string => (chatId === null ? "model" : `model.${chatId}`);

/**
 * The chosen model and how to choose another. What was chosen for the chat comes first, then what
 * its last reply used, then the last choice made anywhere; always one that the user may use.
 */
export function useChosenModel(
  chatId: string | null,
  lastUsed: string | null,
  models: readonly OfferedModel[] | null,
): [string | null, (modelId: string) => void] {
  const [, redraw] = useState(0);
  const usable = (models ?? []).filter(({ available }) => available).map(({ id }) => id);
  const wishes = [chatId === null ? null : recall(keyOf(chatId)), lastUsed, recall(keyOf(null))];
  const chosen = wishes.find((id): id is string => id !== null && usable.includes(id)) ?? usable[0] ?? null;
  const choose = (modelId: string) => {
    remember(keyOf(chatId), modelId);
    remember(keyOf(null), modelId);
    redraw((count) => count + 1);
  };
  return [chosen, choose];
}

/** Carries the choice over to a chat that was just created. */
export function rememberModel(chatId: string, modelId: string): void {
  remember(keyOf(chatId), modelId);
}
