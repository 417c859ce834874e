import numpy as np
import pandas as pd
from sklearn.neural_network import MLPClassifier

train, test = np.load("train.npz"), np.load("test.npz")
X = train["images"].reshape(-1, 784) / 255
X_test = test["images"].reshape(-1, 784) / 255

model = MLPClassifier(hidden_layer_sizes=(12,), max_iter=1500, tol=0.0, random_state=0)
model.fit(X, train["labels"])

prediction = model.predict(X_test)
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
