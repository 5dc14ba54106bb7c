/** The choice of a model, with what each needs. A native select: every phone and screen reader knows it. */

import type { ReactNode } from "react";
import type { OfferedModel } from "../chat/wire";
import type { Models } from "./useModels";

interface ModelSelectProps {
  offered: Models;
  chosen: string | null;
  onChoose: (modelId: string) => void;
}

export function ModelSelect({ offered, chosen, onChoose }: ModelSelectProps): ReactNode {
  if (offered.failed && offered.models === null) {
    return (
      <button type="button" className="quiet" onClick={offered.reload}>
        Models could not be loaded. Try again
      </button>
    );
  }
  const models = offered.models ?? [];
  const selected = models.find(({ id }) => id === chosen);
  return (
    <div className="model">
      <label className="hidden" htmlFor="model">
        Model
      </label>
      <select
        id="model"
        className="choice"
        aria-describedby={selected ? "model-plan" : undefined}
        value={chosen ?? ""}
        disabled={models.length === 0}
        onChange={(event) => onChoose(event.target.value)}
      >
        {chosen === null ? <option value="">{offered.models === null ? "Loading models…" : "No model available"}</option> : null}
        {models.map((model) => (
          <option key={model.id} value={model.id} disabled={!model.available} data-plan={model.available ? planOf(model) : undefined}>
            {labelOf(model)}
          </option>
        ))}
      </select>
      {selected ? (
        <span id="model-plan" className="plan">
          {planOf(selected)}
        </span>
      ) : null}
    </div>
  );
}

function labelOf(model: OfferedModel): string {
  if (model.available) return model.title;
  if (model.unavailableBecause === "model_not_configured") return `${model.title} (no key here)`;
  return model.plans.length > 0 ? `${model.title} (needs ${planOf(model)})` : `${model.title} (not available)`;
}

/** The least plan that includes the model, as its name is read. */
function planOf({ plans }: OfferedModel): string {
  const plan = plans.find((name) => name === "free") ?? plans[0] ?? "";
  return plan.charAt(0).toUpperCase() + plan.slice(1);
}
