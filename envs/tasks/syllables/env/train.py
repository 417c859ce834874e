import pandas as pd
from sklearn.linear_model import LinearRegression

train = pd.read_csv("train.csv", keep_default_na=False)
test = pd.read_csv("test.csv", keep_default_na=False)
X, X_test = train["word"].str.len().to_frame(), test["word"].str.len().to_frame()

model = LinearRegression()
model.fit(X, train["target"])

prediction = model.predict(X_test).round().astype(int)
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
